"""Requests and answers of RecommendationService. Here the options of a request, its placement and the tenant's defaults
become one query: what the request sets wins, then the placement, then the defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

from recsvc.domain.catalog import AttributeRule
from recsvc.domain.errors import InvalidField, InvalidFilter, NotImplementedYet, PlacementNotFound
from recsvc.domain.filters import ITEM_FIELDS as _ITEM_SCHEMA
from recsvc.domain.filters import USER_FIELDS, And, FilterSchema, Tree, parse
from recsvc.domain.ids import ItemId, SessionId, UserId
from recsvc.domain.recommendations import (
    TREND_HALF_LIVES,
    Boost,
    Degradation,
    DegradationLevel,
    Diversity,
    RankQuery,
    Reason,
    ReasonKind,
    Recommendations,
    RecommendedItem,
    RecommendQuery,
    SimilarItemsQuery,
    SimilarityBasis,
    SimilarUsersQuery,
    Strategy,
)
from recsvc.domain.tenancy import TenantProfile, TenantSettings
from recsvc.engine.recommender import ExplainedItem
from recsvc.engine.similar_items import SimilarItems
from recsvc.engine.similar_users import SimilarUsers
from recsvc.gen.v1 import catalog_service_pb2, filters_pb2
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.rpc.convert.items import item_proto
from recsvc.rpc.convert.tenant_settings import settings_proto
from recsvc.rpc.convert.values import duration, moment, set_timestamp, span, timestamp

_DEFAULT_COUNT = 10
_REMEMBERED_BYTES = 512
_ITEM_FIELDS = frozenset(field.name for field in catalog_service_pb2.Item.DESCRIPTOR.fields)
_STRATEGIES = {strategy: pb.Strategy.Value(f"STRATEGY_{strategy}") for strategy in Strategy}
_LEVELS = {level: pb.Degradation.Level.Value(f"LEVEL_{level.name}") for level in DegradationLevel}
_PLAIN_CATEGORY_FIELDS = ("categories", "tags", "item_type")


def recommend_query(request: pb.RecommendRequest, profile: TenantProfile) -> RecommendQuery:
    """The query in a request. Raises InvalidField, InvalidFilter and PlacementNotFound."""
    if request.user_id and request.session_id:
        raise InvalidField("session_id", "must not be set together with user_id; MergeUsers joins the two")
    question = pb.RecommendRequest()
    question.CopyFrom(request)
    question.ClearField("user_id")
    question.ClearField("session_id")
    understood = _remembered if question.ByteSize() <= _REMEMBERED_BYTES else _understood
    query_of = understood(question.SerializeToString(deterministic=True), profile.settings, profile.attribute_schema)
    return query_of(
        user_id=UserId(request.user_id) if request.user_id else None,
        session_id=SessionId(request.session_id) if request.session_id else None,
    )


def _understood(
    question: bytes, settings: TenantSettings, attribute_schema: tuple[AttributeRule, ...]
) -> Callable[..., RecommendQuery]:
    """What a request asks of this tenant, to be told for whom it asks."""
    request = pb.RecommendRequest.FromString(question)
    if request.HasField("experiment"):
        raise NotImplementedYet("experiment")
    options = _options(request, settings)
    schema = _filter_schema(attribute_schema)
    return partial(
        RecommendQuery,
        session_item_ids=tuple(
            ItemId(item_id) for item_id in (*request.session_item_ids, *request.context.session_item_ids)
        ),
        count=options.count if options.HasField("count") else _DEFAULT_COUNT,
        strategy=_strategy(options.strategy),
        filter=_joined(request.filter, options.filter, schema),
        diversity=_diversity(options.diversity),
        novelty=options.novelty,
        exploration=options.exploration,
        boosts=tuple(boost(message, f"boosts[{index}]", schema) for index, message in enumerate(options.boosts)),
        exclude_item_ids=tuple(ItemId(item_id) for item_id in options.exclude_item_ids),
        include_seen=options.include_seen,
        explain=options.explain,
        item_fields=item_fields(options.item_mask),
        max_staleness=span(options.max_staleness) if options.HasField("max_staleness") else None,
        placement=request.placement,
        time=moment(request.context.time, "context.time") if request.context.HasField("time") else None,
    )


# Most callers ask the same of all their users.
_remembered = lru_cache(maxsize=1024)(_understood)


def popular_query(request: pb.PopularItemsRequest, profile: TenantProfile) -> RecommendQuery:
    """PopularItems as a query for anybody."""
    return RecommendQuery(
        count=request.count if request.HasField("count") else _DEFAULT_COUNT,
        strategy=Strategy.POPULAR,
        filter=parse(request.filter, item_filter_schema(profile)),
        item_fields=item_fields(request.item_mask),
    )


def trending_query(request: pb.TrendingItemsRequest, profile: TenantProfile) -> RecommendQuery:
    """TrendingItems as a query for anybody, with the nearest of the half-lives that are kept."""
    window = span(request.window) if request.HasField("window") else TREND_HALF_LIVES[0]
    return RecommendQuery(
        count=request.count if request.HasField("count") else _DEFAULT_COUNT,
        strategy=Strategy.TRENDING,
        filter=parse(request.filter, item_filter_schema(profile)),
        item_fields=item_fields(request.item_mask),
        trend_half_life=min(TREND_HALF_LIVES, key=lambda kept: abs(kept - window)),
    )


def similar_query(request: pb.SimilarItemsRequest, profile: TenantProfile) -> SimilarItemsQuery:
    """The query of SimilarItems."""
    by = pb.SimilarityBasis.Name(request.by).removeprefix("SIMILARITY_BASIS_")
    return SimilarItemsQuery(
        item_id=ItemId(request.item_id),
        by=SimilarityBasis.AUTO if by == "UNSPECIFIED" else SimilarityBasis(by),
        count=request.count if request.HasField("count") else _DEFAULT_COUNT,
        filter=parse(request.filter, item_filter_schema(profile)),
        diversity=_diversity(request.diversity),
        explain=request.explain,
        item_fields=item_fields(request.item_mask),
        exclude_item_ids=tuple(ItemId(item_id) for item_id in request.exclude_item_ids),
    )


def similar_users_query(request: pb.SimilarUsersRequest) -> SimilarUsersQuery:
    """The query of SimilarUsers. Raises InvalidFilter."""
    return SimilarUsersQuery(
        user_id=UserId(request.user_id),
        count=request.count if request.HasField("count") else _DEFAULT_COUNT,
        filter=parse(request.filter, USER_FIELDS),
    )


def rank_query(request: pb.RankItemsRequest, profile: TenantProfile) -> RankQuery:
    """The query of RankItems. Raises InvalidField for a candidate that stands twice."""
    seen: set[str] = set()
    for index, item_id in enumerate(request.item_ids):
        if item_id in seen:
            raise InvalidField(f"item_ids[{index}]", f"{item_id!r} stands twice")
        seen.add(item_id)
    schema = item_filter_schema(profile)
    return RankQuery(
        item_ids=tuple(ItemId(item_id) for item_id in request.item_ids),
        user_id=UserId(request.user_id) if request.user_id else None,
        session_id=SessionId(request.session_id) if request.session_id and not request.user_id else None,
        session_item_ids=tuple(ItemId(item_id) for item_id in request.session_item_ids),
        boosts=tuple(boost(message, f"boosts[{index}]", schema) for index, message in enumerate(request.boosts)),
        explain=request.explain,
    )


def recommend_response(found: Recommendations, item_fields: tuple[str, ...]) -> pb.RecommendResponse:
    """The answer of Recommend."""
    response = pb.RecommendResponse()
    write_response(response, found, item_fields)
    return response


def write_response(response: pb.RecommendResponse, found: Recommendations, item_fields: tuple[str, ...]) -> None:
    """The answer of Recommend, in its place: to copy a message into another costs more than to make it there."""
    response.recommendation_id = found.recommendation_id
    add_items(response.items, found.items, item_fields)
    response.strategy = _STRATEGIES[found.strategy]
    response.model_id = found.model_id
    response.degradation.level = _LEVELS[found.degradation.level]
    response.degradation.reason = found.degradation.reason
    set_timestamp(response.generate_time, found.generate_time)


def similar_response(found: SimilarItems, item_fields: tuple[str, ...]) -> pb.SimilarItemsResponse:
    """The answer of SimilarItems."""
    response = pb.SimilarItemsResponse(
        recommendation_id=found.recommendation_id,
        by=pb.SimilarityBasis.Value(f"SIMILARITY_BASIS_{found.by}"),
        model_id=found.model_id,
        degradation=degradation_proto(found.degradation),
        generate_time=timestamp(found.generate_time),
    )
    add_items(response.items, found.items, item_fields)
    return response


def explain_query(request: pb.ExplainRecommendationRequest, profile: TenantProfile) -> RecommendQuery:
    """What Recommend would be asked for this user, with the tenant's defaults."""
    return recommend_query(pb.RecommendRequest(user_id=request.user_id, explain=True), profile)


def explain_response(found: ExplainedItem) -> pb.ExplainRecommendationResponse:
    """The answer of ExplainRecommendation."""
    return pb.ExplainRecommendationResponse(
        score=found.item.score,
        reasons=[_reason(reason) for reason in found.item.reasons],
        model_id=found.model_id,
    )


def similar_users_response(found: SimilarUsers) -> pb.SimilarUsersResponse:
    """The answer of SimilarUsers."""
    return pb.SimilarUsersResponse(
        users=[pb.SimilarUser(user_id=user.user_id, similarity=user.similarity) for user in found.users],
        model_id=found.model_id,
        degradation=degradation_proto(found.degradation),
    )


def add_items(
    target: RepeatedCompositeFieldContainer[pb.RecommendedItem],
    items: Sequence[RecommendedItem],
    item_fields: tuple[str, ...],
) -> None:
    """Ranked items with the fields that the mask asked for."""
    for rank, item in enumerate(items, start=1):
        added = target.add(item_id=item.item_id, rank=rank, score=item.score, source=item.source)
        if item.reasons:
            added.reasons.extend(map(_reason, item.reasons))
        if item.item is not None and item_fields:
            FieldMask(paths=item_fields).MergeMessage(item_proto(item.item), added.item)


def degradation_proto(source: Degradation) -> pb.Degradation:
    """Whether the answer is less than it could be."""
    return pb.Degradation(level=_LEVELS[source.level], reason=source.reason)


def boost(message: filters_pb2.Boost, path: str, schema: FilterSchema) -> Boost:
    """A boost. Raises InvalidFilter that names the field."""
    try:
        tree = parse(message.filter, schema)
    except InvalidFilter as error:
        raise error.at_field(f"{path}.filter") from None
    if tree is None:
        raise InvalidField(f"{path}.filter", "is required")
    return Boost(tree, message.factor)


def item_fields(mask: FieldMask, path: str = "item_mask") -> tuple[str, ...]:
    """The fields of an item that a mask names. Raises InvalidField, with the mask's path, for one that there is not."""
    for name in mask.paths:
        if name != "*" and name not in _ITEM_FIELDS:
            raise InvalidField(path, f"an item has no field {name!r}")
    return tuple(sorted(_ITEM_FIELDS)) if "*" in mask.paths else tuple(sorted(set(mask.paths)))


def item_filter_schema(profile: TenantProfile) -> FilterSchema:
    """Fields that filters over items may use in this tenant."""
    return _filter_schema(profile.attribute_schema)


def _filter_schema(attribute_schema: tuple[AttributeRule, ...]) -> FilterSchema:
    if not attribute_schema:
        return _ITEM_SCHEMA
    keys = frozenset(rule.key for rule in attribute_schema if rule.filterable)
    return FilterSchema(_ITEM_SCHEMA.resource, _ITEM_SCHEMA.fields, _ITEM_SCHEMA.ages, True, keys)


def _options(request: pb.RecommendRequest, own: TenantSettings) -> pb.RecommendOptions:
    settings = _shared_settings(own)
    merged = pb.RecommendOptions()
    merged.CopyFrom(settings.defaults)
    if request.placement:
        if request.placement not in settings.placements:
            raise PlacementNotFound(request.placement)
        _override(merged, settings.placements[request.placement])
    _override(merged, request)
    return merged


def _override(target: Any, source: Any) -> None:
    """Let the fields that are set in `source` win; boosts and exclusions add up, filters are joined elsewhere."""
    for field in target.DESCRIPTOR.fields:
        name = field.name
        if field.is_repeated:
            getattr(target, name).extend(getattr(source, name))
        elif name == "filter":
            if isinstance(source, pb.RecommendOptions) and source.filter:
                target.filter = f"({target.filter}) AND ({source.filter})" if target.filter else source.filter
        elif name == "diversity":
            if source.HasField("diversity"):
                target.diversity.MergeFrom(source.diversity)
        elif field.message_type is not None:
            if source.HasField(name):
                getattr(target, name).CopyFrom(getattr(source, name))
        elif field.has_presence:
            if source.HasField(name):
                setattr(target, name, getattr(source, name))
        elif getattr(source, name):
            setattr(target, name, getattr(source, name))


# Only read here, so all who ask may have the same message.
_shared_settings = lru_cache(maxsize=1024)(settings_proto)


def _strategy(value: pb.Strategy.ValueType) -> Strategy:
    name = pb.Strategy.Name(value).removeprefix("STRATEGY_")
    return Strategy.AUTO if name == "UNSPECIFIED" else Strategy(name)


def _joined(of_request: str, of_options: str, schema: FilterSchema) -> Tree | None:
    trees = [tree for text in (of_request, of_options) if (tree := parse(text, schema)) is not None]
    return And(tuple(trees)) if len(trees) > 1 else (trees[0] if trees else None)


def _diversity(message: pb.Diversity) -> Diversity:
    trade_off = getattr(message, "lambda") if message.HasField("lambda") else 1.0
    category_field = message.category_field or "categories"
    is_attribute = category_field.startswith("attributes.") and "\x00" not in category_field
    if category_field not in _PLAIN_CATEGORY_FIELDS and not is_attribute:
        raise InvalidField("diversity.category_field", "must be categories, tags, item_type or attributes.<key>")
    return Diversity(trade_off, message.max_per_category, category_field)


def _reason(source: Reason) -> pb.Reason:
    contribution = source.contribution
    match source.kind:
        case ReasonKind.SIMILAR_TO_INTERACTED:
            return pb.Reason(
                similar_to_interacted=pb.SimilarToInteracted(
                    item_id=source.item_id or "", similarity=source.strength, contribution=contribution
                )
            )
        case ReasonKind.POPULAR_IN_CATEGORY:
            return pb.Reason(
                popular_in_category=pb.PopularInCategory(
                    category=source.names[0] if source.names else "",
                    popularity=source.strength,
                    contribution=contribution,
                )
            )
        case ReasonKind.FREQUENTLY_BOUGHT_TOGETHER:
            return pb.Reason(
                frequently_bought_together=pb.FrequentlyBoughtTogether(item_ids=source.names, contribution=contribution)
            )
        case ReasonKind.MATCHES_ATTRIBUTES:
            return pb.Reason(matches_attributes=pb.MatchesAttributes(keys=source.names, contribution=contribution))
        case ReasonKind.TRENDING:
            return pb.Reason(
                trending=pb.Trending(
                    window=duration(TREND_HALF_LIVES[0]), lift=source.strength, contribution=contribution
                )
            )
        case ReasonKind.BOOSTED:
            return pb.Reason(boosted=pb.Boosted(factor=source.strength, contribution=contribution))
