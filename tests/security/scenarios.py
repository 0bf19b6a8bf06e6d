"""What to ask of each method so that it names what the caller must not reach; one entry for every method there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from recsvc.rpc.server import FILES
from tests.security.tenants import Names

Fields = Mapping[str, Any]
METHODS: Mapping[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.services_by_name.values()
    for method in service.methods
}

# Methods of the contract that have no behaviour yet. Whoever implements one takes it out here and says what to ask.
UNIMPLEMENTED = frozenset(
    f"/recsvc.v1.{name}"
    for name in (
        "ExperimentService/CreateExperiment",
        "ExperimentService/GetExperiment",
        "ExperimentService/ListExperiments",
        "ExperimentService/UpdateExperiment",
        "ExperimentService/StartExperiment",
        "ExperimentService/StopExperiment",
        "ExperimentService/GetAssignment",
        "ExperimentService/GetExperimentReport",
        "AdminService/CreateWebhook",
        "AdminService/ListWebhooks",
        "AdminService/DeleteWebhook",
        "AdminService/TestWebhook",
    )
)


def _event(n: Names) -> Fields:
    return {"event_id": n.event, "event_type": "view", "item_id": n.item, "user_id": n.user}


def _experiment(n: Names) -> Fields:
    return {
        "experiment_id": n.experiment,
        "variants": [{"name": "a", "traffic": 0.5}, {"name": "b", "traffic": 0.5}],
        "metric": {"event_type": n.event_type},
    }


def _recommend(n: Names) -> Fields:
    return {
        "user_id": n.user,
        "session_item_ids": [n.item],
        "exclude_item_ids": [n.item],
        "filter": f'NOT title = "{n.item}"',
        "item_mask": {"paths": ["*"]},
        "explain": True,
        "include_seen": True,
        "count": 500,
    }


def scenarios(n: Names) -> Mapping[str, list[Fields]]:
    """Requests by the method's path; several are several calls, or the messages of one stream."""
    return {f"/recsvc.v1.{name}": requests for name, requests in _by_name(n).items()}


def _by_name(n: Names) -> Mapping[str, list[Fields]]:
    return {
        "CatalogService/CreateItem": [{"item": {"item_id": n.written_item}}],
        "CatalogService/GetItem": [{"item_id": n.item}],
        "CatalogService/UpdateItem": [
            {"item": {"item_id": n.item, "title": "taken"}},
            {"item": {"item_id": n.written_item, "title": "taken"}, "allow_missing": True},
        ],
        "CatalogService/DeleteItem": [
            {"item_id": n.item},
            {"item_id": n.item, "etag": "1"},
            {"item_id": n.written_item},
        ],
        "CatalogService/ListItems": [
            {},
            {"filter": f'item_id = "{n.item}"'},
            {"filter": f"attributes.{n.attribute.replace('-', '_')}:*"},
            {"filter": f'title != "{n.item}"', "order_by": "update_time desc"},
        ],
        "CatalogService/BatchGetItems": [{"item_ids": [n.item]}],
        "CatalogService/BatchUpsertItems": [{"items": [{"item_id": n.written_item, "title": "taken"}]}],
        "CatalogService/BatchDeleteItems": [{"item_ids": [n.item, n.written_item]}],
        "CatalogService/ImportItems": [{"items": [{"item_id": n.written_item}]}],
        "CatalogService/ExportItems": [
            {},
            {"modified_after": {"seconds": 1}},
            {"filter": f'item_id = "{n.item}"'},
        ],
        "CatalogService/GetItemActivity": [{"item_ids": [n.item], "window": {"seconds": 86400}}],
        "CatalogService/GetAttributeSchema": [{}],
        "CatalogService/UpdateAttributeSchema": [{"schema": {"attributes": []}}],
        "UserService/GetUser": [{"user_id": n.user}],
        "UserService/UpdateUser": [
            {"user": {"user_id": n.user, "labels": ["taken"]}},
            {"user": {"user_id": n.written_user, "labels": ["taken"]}, "allow_missing": True},
        ],
        "UserService/DeleteUser": [{"user_id": n.user}, {"user_id": n.user, "allow_missing": True}],
        "UserService/ListUsers": [{}, {"filter": f'user_id = "{n.user}"'}],
        "UserService/ExportUser": [{"user_id": n.user}],
        "UserService/MergeUsers": [
            {"source_session_id": n.session, "user_id": n.written_user},
            {"source_user_id": n.user, "user_id": n.written_user},
        ],
        "IngestionService/RecordEvent": [
            {"event": _event(n)},
            {"event": {**_event(n), "event_type": n.event_type}},
        ],
        "IngestionService/BatchRecordEvents": [{"events": [_event(n)]}],
        "IngestionService/StreamEvents": [{"sequence": 1, "events": [_event(n)]}],
        "IngestionService/ListEvents": [
            {},
            {"filter": f'user_id = "{n.user}"'},
            {"filter": f'event_id = "{n.event}"'},
            {"filter": f'recommendation_id = "{n.recommendation}"'},
        ],
        "IngestionService/ExportEvents": [{}, {"filter": f'session_id = "{n.session}"'}],
        "IngestionService/ListEventTypes": [{}],
        "IngestionService/UpdateEventType": [
            {"event_type": {"event_type": n.event_type, "weight": -1}, "update_mask": {"paths": ["weight"]}}
        ],
        "IngestionService/DeleteEventType": [{"event_type": n.event_type}],
        "RecommendationService/Recommend": [
            _recommend(n),
            {"session_id": n.session, "item_mask": {"paths": ["*"]}},
            {"user_id": n.user, "placement": n.placement},
            {"user_id": n.user, "strategy": "STRATEGY_RECENTLY_VIEWED"},
            {"strategy": "STRATEGY_NEW", "count": 500},
        ],
        "RecommendationService/BatchRecommend": [{"requests": [_recommend(n), {"session_id": n.session}]}],
        "RecommendationService/BulkRecommend": [{"key": n.user, "request": _recommend(n)}],
        "RecommendationService/SimilarItems": [
            {"item_id": n.item, "by": by}
            for by in ("SIMILARITY_BASIS_BEHAVIOR", "SIMILARITY_BASIS_CONTENT", "SIMILARITY_BASIS_BOUGHT_TOGETHER")
        ],
        "RecommendationService/TrendingItems": [{"count": 500, "item_mask": {"paths": ["*"]}}],
        "RecommendationService/PopularItems": [{"count": 500, "item_mask": {"paths": ["*"]}}],
        "RecommendationService/RankItems": [{"user_id": n.user, "item_ids": [n.item], "explain": True}],
        "RecommendationService/SimilarUsers": [{"user_id": n.user, "count": 500}],
        "RecommendationService/ExplainRecommendation": [{"user_id": n.user, "item_id": n.item}],
        "RecommendationService/WatchRecommendations": [{"request": _recommend(n)}],
        "ExperimentService/CreateExperiment": [{"experiment": _experiment(n)}],
        "ExperimentService/GetExperiment": [{"experiment_id": n.experiment}],
        "ExperimentService/ListExperiments": [{}],
        "ExperimentService/UpdateExperiment": [{"experiment": _experiment(n)}],
        "ExperimentService/StartExperiment": [{"experiment_id": n.experiment}],
        "ExperimentService/StopExperiment": [{"experiment_id": n.experiment}],
        "ExperimentService/GetAssignment": [{"experiment_id": n.experiment, "user_id": n.user}],
        "ExperimentService/GetExperimentReport": [{"experiment_id": n.experiment}],
        "AdminService/CreateTenant": [{"tenant": {"tenant_id": n.tenant}}],
        "AdminService/GetTenant": [{"tenant_id": n.tenant}],
        "AdminService/ListTenants": [{}],
        "AdminService/UpdateTenant": [{"tenant": {"tenant_id": n.tenant, "display_name": "taken"}}],
        "AdminService/DeleteTenant": [{"tenant_id": n.tenant}],
        "AdminService/CreateApiKey": [{"display_name": "mine", "scopes": ["admin:service"]}],
        "AdminService/ListApiKeys": [{}],
        "AdminService/RotateApiKey": [{"key_id": n.key}],
        "AdminService/RevokeApiKey": [{"key_id": n.key}],
        "AdminService/StartTraining": [{}],
        "AdminService/GetTrainingRun": [{"training_run_id": n.run}],
        "AdminService/WatchTrainingRun": [{"training_run_id": n.run}],
        "AdminService/ListModels": [{}],
        "AdminService/GetModel": [{"model_id": n.model}],
        "AdminService/ActivateModel": [{"model_id": n.model}],
        "AdminService/DeleteModel": [{"model_id": n.model}],
        "AdminService/CreateWebhook": [{"webhook": {"url": "https://example.com/hook", "events": ["model.activated"]}}],
        "AdminService/ListWebhooks": [{}],
        "AdminService/DeleteWebhook": [{"webhook_id": n.webhook}],
        "AdminService/TestWebhook": [{"webhook_id": n.webhook}],
        "AdminService/GetServiceInfo": [{}],
    }


def requests_of(path: str, names: Names) -> list[Any]:
    """The request messages of a method's scenario."""
    message = GetMessageClass(METHODS[path].input_type)
    return [message(**fields) for fields in scenarios(names)[path]]
