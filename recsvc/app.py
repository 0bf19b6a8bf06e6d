"""The composition root: settings become pools, caches, the engine, servicers and a server, in the order given here.

Everything that is opened is an async context manager on one stack, and is left in reverse. Nothing else in the code
builds these things or finds them by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial

import structlog
from threadpoolctl import threadpool_limits

from recsvc.cache.change_feed import ChangeFeed
from recsvc.cache.lists import ListCache
from recsvc.cache.permits import Permits
from recsvc.cache.redis_client import RedisClient
from recsvc.cache.versions import VersionAnnouncer
from recsvc.domain.bootstrap_keys import parse
from recsvc.domain.consistency import ConsistencyTokens
from recsvc.domain.errors import AlreadyExists, StorageUnavailable
from recsvc.domain.paging import PageTokens
from recsvc.domain.tenancy import TenantSettings
from recsvc.embedded import embedded_servers
from recsvc.engine import ranking
from recsvc.engine.attribution import Attribution
from recsvc.engine.candidate_finder import CandidateFinder
from recsvc.engine.census import Census
from recsvc.engine.coverage import CatalogCoverage
from recsvc.engine.event_writer import EventWriter
from recsvc.engine.fallback import Fallback
from recsvc.engine.fold_in import FoldIn
from recsvc.engine.item_fold_in import ItemFoldIn
from recsvc.engine.profiles import TenantProfiles
from recsvc.engine.projector import Projector
from recsvc.engine.recommender import Recommender
from recsvc.engine.remembered_states import RememberedStates
from recsvc.engine.retention import Retention
from recsvc.engine.shown_log import ShownLog
from recsvc.engine.similar_items import SimilarItemFinder
from recsvc.engine.similar_users import SimilarUserFinder
from recsvc.engine.trending_memory import TrendingMemory
from recsvc.engine.watch_hub import WatchHub
from recsvc.resilience.arrival import NotThereInTime, arrival
from recsvc.resilience.dependencies import Condition, DependencyWatch, Finding
from recsvc.rpc.authentication import Authenticator
from recsvc.rpc.certificates import Certificates
from recsvc.rpc.health import POSTGRESQL, REDIS, Health
from recsvc.rpc.interceptors.access_log import AccessLog
from recsvc.rpc.interceptors.audit import Auditing
from recsvc.rpc.interceptors.auth import Authentication, required_scopes
from recsvc.rpc.interceptors.consistency import ReadYourWrites
from recsvc.rpc.interceptors.limits import Limits
from recsvc.rpc.interceptors.observation import Observation
from recsvc.rpc.interceptors.tracing import CallTold, DrawnCalls, Traced
from recsvc.rpc.key_hasher import KeyHasher
from recsvc.rpc.methods import policies
from recsvc.rpc.pipeline import Pipeline, Stage
from recsvc.rpc.server import FILES, SERVICE_NAMES, RpcServer
from recsvc.rpc.servicers.admin import AdminServicer
from recsvc.rpc.servicers.catalog import CatalogServicer
from recsvc.rpc.servicers.experiments import ExperimentServicer
from recsvc.rpc.servicers.ingestion import IngestionServicer
from recsvc.rpc.servicers.recommendation import RecommendationServicer
from recsvc.rpc.servicers.users import UserServicer
from recsvc.rpc.tenant_limits import TenantLimitSource
from recsvc.rpc.validation import RequestValidator
from recsvc.settings import Settings
from recsvc.storage.api_keys import ApiKeyRepository
from recsvc.storage.audit_log import AuditLog
from recsvc.storage.candidates import CandidateRepository
from recsvc.storage.content import ContentRepository
from recsvc.storage.database import Database
from recsvc.storage.event_types import EventTypeRepository
from recsvc.storage.events import EventRepository
from recsvc.storage.fitness import look
from recsvc.storage.item_counters import ItemCounterRepository
from recsvc.storage.items import ItemRepository
from recsvc.storage.migrator import MigrationError, migrate
from recsvc.storage.models import ModelRepository
from recsvc.storage.replicas import Replicas
from recsvc.storage.shown import ShownRepository
from recsvc.storage.similar_items import SimilarItemRepository
from recsvc.storage.similar_users import SimilarUserRepository
from recsvc.storage.snapshots import SnapshotRepository
from recsvc.storage.statistics import StatisticsRepository
from recsvc.storage.tenants import TenantRepository
from recsvc.storage.traced_cursors import traced_cursors
from recsvc.storage.training_runs import TrainingRunRepository
from recsvc.storage.user_states import UserStateRepository
from recsvc.storage.users import UserRepository
from recsvc.telemetry.exposition import exposed
from recsvc.telemetry.loop_lag import LoopLag
from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.spans import AUTH, LIMITS
from recsvc.telemetry.tracing import Tracing, tracing
from recsvc.training.runner import TrainingRunner

_log = structlog.get_logger("recsvc")
_STAGED = (
    RedisClient,
    ListCache,
    CandidateFinder,
    CandidateRepository,
    Recommender,
    ranking,
    FoldIn,
    EventWriter,
    WatchHub,
    Database,
)
"""Whose marked functions are spans while tracing is on."""


class _RedisAbsent(Exception):
    """Occurs at start while Redis does not answer."""


@dataclass(frozen=True, slots=True)
class Urls:
    """Where PostgreSQL and Redis are."""

    database_url: str
    redis_url: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Everything that reads and writes, ready to use: what commands and the service share."""

    settings: Settings
    urls: Urls
    metrics: Metrics
    database: Database
    replicas: Replicas
    redis: RedisClient
    changes: VersionAnnouncer
    tenants: TenantRepository
    keys: ApiKeyRepository
    items: ItemRepository
    users: UserRepository
    events: EventRepository
    event_types: EventTypeRepository
    counters: ItemCounterRepository
    models: ModelRepository
    content: ContentRepository
    training_runs: TrainingRunRepository
    states: UserStateRepository
    candidates: CandidateRepository
    snapshots: SnapshotRepository
    similar_items: SimilarItemRepository
    similar_users: SimilarUserRepository
    shown: ShownRepository
    audit_log: AuditLog


@dataclass(frozen=True, slots=True)
class Engine:
    """The recommender and what it needs to stay fresh."""

    profiles: TenantProfiles
    fold_in: FoldIn
    item_fold_in: ItemFoldIn
    finder: CandidateFinder
    trending: TrendingMemory
    recommender: Recommender
    similar_items: SimilarItemFinder
    similar_users: SimilarUserFinder


@dataclass(frozen=True, slots=True)
class Service:
    """A service that answers."""

    port: int
    metrics_port: int | None
    server: RpcServer
    storage: Storage
    engine: Engine
    health: Health
    limits: TenantLimitSource
    access_log: AccessLog


@asynccontextmanager
async def open_urls(settings: Settings) -> AsyncIterator[Urls]:
    """Where the servers are; those that no URL names are started, or joined, under the data directory."""
    if settings.database_url is not None and settings.redis_url is not None:
        yield Urls(settings.database_url.get_secret_value(), settings.redis_url.get_secret_value())
        return
    async with embedded_servers(settings.embedded_dir) as embedded:
        yield Urls(
            settings.database_url.get_secret_value() if settings.database_url else embedded.database_url,
            settings.redis_url.get_secret_value() if settings.redis_url else embedded.redis_url,
        )


@asynccontextmanager
async def open_storage(settings: Settings, *, wait_s: float = 0.0) -> AsyncIterator[Storage]:
    """Connect, bring the schema up to date, and build the repositories.

    wait_s: how long PostgreSQL may take to be there. Raises MigrationError for a database that is not fit for this
    version, StorageUnavailable or, after a wait, NotThereInTime.
    """
    async with AsyncExitStack() as stack:
        urls = await stack.enter_async_context(open_urls(settings))
        await arrival(
            "PostgreSQL", partial(migrate, urls.database_url), is_absence=StorageUnavailable, at_most_s=wait_s
        )
        metrics = Metrics(settings.metrics.tenants)
        database = await stack.enter_async_context(Database(urls.database_url, settings.postgres, metrics))
        found = await look(database)
        if found.condition is Condition.UNFIT:
            raise MigrationError(found.detail)
        replicas = await stack.enter_async_context(Replicas(database, settings.postgres, metrics))
        redis = await stack.enter_async_context(RedisClient(urls.redis_url, settings.cache, metrics))
        changes = VersionAnnouncer(redis)
        longest_transaction_s = settings.postgres.bulk_statement_timeout_s
        counters = ItemCounterRepository(database)
        events = EventRepository(database, replicas, changes, counters, longest_transaction_s=longest_transaction_s)
        yield Storage(
            settings=settings,
            urls=urls,
            metrics=metrics,
            database=database,
            replicas=replicas,
            redis=redis,
            changes=changes,
            tenants=TenantRepository(database, changes),
            keys=ApiKeyRepository(database, changes),
            items=ItemRepository(database, replicas, changes, longest_transaction_s=longest_transaction_s),
            users=UserRepository(database, replicas, changes, events),
            events=events,
            event_types=EventTypeRepository(database, changes),
            counters=counters,
            models=ModelRepository(database, changes),
            content=ContentRepository(database),
            training_runs=TrainingRunRepository(database),
            states=UserStateRepository(database),
            candidates=CandidateRepository(database, replicas),
            snapshots=SnapshotRepository(database, replicas),
            similar_items=SimilarItemRepository(database, replicas),
            similar_users=SimilarUserRepository(database),
            shown=ShownRepository(database),
            audit_log=AuditLog(database),
        )


@asynccontextmanager
async def open_tracing(storage: Storage) -> AsyncIterator[Tracing | None]:
    """Traces of whatever goes on with this storage; None while they are off."""
    async with tracing(storage.settings.tracing, storage.metrics, _STAGED) as traces:
        with traced_cursors(traces.tracer) if traces is not None else nullcontext():
            yield traces


async def store_bootstrap_keys(storage: Storage) -> None:
    """Make the keys of the configuration, and their tenants, where they are missing. Raises InvalidField."""
    auth = storage.settings.auth
    texts = [auth.bootstrap_keys.get_secret_value()] if auth.bootstrap_keys else []
    if auth.bootstrap_keys_file is not None:
        texts.append(auth.bootstrap_keys_file.read_text(encoding="utf-8"))
    for key in (key for text in texts for key in parse(text)):
        with suppress(AlreadyExists):
            await storage.tenants.create(key.tenant_id, "", TenantSettings())
        if await storage.keys.insert_bootstrap(key):
            _log.info("bootstrap_key.stored", key_id=key.key_id, tenant=key.tenant_id)


def build_engine(storage: Storage, *, cached: bool = True, shown: ShownLog | None = None) -> Engine:
    """The recommender. cached: False computes every list anew, as an evaluation must."""
    settings = storage.settings
    # Two answers to one question must not differ by what happened a moment ago.
    engine_settings = settings.engine if cached else settings.engine.model_copy(update={"counters_life_s": 0.0})
    cache = ListCache(storage.redis, storage.metrics) if cached else None
    profiles = TenantProfiles(storage.tenants, cache, storage.metrics, storage.database.is_slow)
    fold_in = FoldIn(
        storage.states,
        storage.changes,
        storage.metrics,
        history_events=settings.engine.history_events,
        history_items=settings.engine.history_items,
    )
    states = RememberedStates(settings.engine.remembered_states_mib * 2**20, settings.cache.stale_ttl_s)
    finder = CandidateFinder(storage.candidates, storage.snapshots, engine_settings, storage.metrics, states)
    trending = TrendingMemory(storage.candidates, storage.items)
    recommender = Recommender(
        finder,
        storage.candidates,
        storage.items,
        profiles,
        fold_in,
        cache,
        Fallback(cache, trending, storage.metrics, storage.database.is_slow) if cache is not None else None,
        shown,
        storage.metrics,
        settings.engine,
        settings.cache,
    )
    similar_items = SimilarItemFinder(storage.similar_items, storage.items, profiles, storage.metrics)
    similar_users = SimilarUserFinder(storage.similar_users, profiles, fold_in)
    item_fold_in = ItemFoldIn(storage.content, storage.changes)
    return Engine(profiles, fold_in, item_fold_in, finder, trending, recommender, similar_items, similar_users)


def build_projector(storage: Storage, engine: Engine, is_busy: Callable[[], bool] = lambda: False) -> Projector:
    """What brings states, counters and vectors up to the events; runs as a context manager, or step by step."""
    return Projector(
        storage.states,
        storage.counters,
        storage.tenants,
        engine.profiles,
        engine.fold_in,
        engine.item_fold_in,
        storage.changes,
        storage.metrics,
        is_busy,
    )


@asynccontextmanager
async def running_service(settings: Settings, *, expose_metrics: bool = True) -> AsyncIterator[Service]:
    """A service that answers until the block is left; then it drains. expose_metrics: whether it answers /metrics."""
    async with AsyncExitStack() as stack:
        # After each product the threads of OpenBLAS go round in circles for more, and cost lists more than they save.
        stack.enter_context(threadpool_limits(1, user_api="blas"))
        storage = await stack.enter_async_context(open_storage(settings, wait_s=settings.server.start_wait_s))
        traces = await stack.enter_async_context(open_tracing(storage))
        await _redis_arrival(storage)
        coverage = CatalogCoverage(storage.redis)
        shown = await stack.enter_async_context(
            ShownLog(storage.shown, storage.metrics, settings.engine.shown_queue, coverage)
        )
        await store_bootstrap_keys(storage)
        engine = build_engine(storage, shown=shown)
        await stack.enter_async_context(engine.finder)
        await stack.enter_async_context(engine.trending)
        await stack.enter_async_context(_retention(storage))
        environment = {
            "RECSVC_DATABASE_URL": storage.urls.database_url,
            "RECSVC_REDIS_URL": storage.urls.redis_url,
        }
        carried = traces.carried if traces is not None else dict
        runner = await stack.enter_async_context(
            TrainingRunner(storage.training_runs, storage.models, environment, storage.metrics, carried)
        )
        await stack.enter_async_context(
            Census(StatisticsRepository(storage.database), coverage, storage.metrics, settings.metrics.census_s)
        )
        attribution = await stack.enter_async_context(Attribution(storage.shown, storage.metrics))
        writer = await stack.enter_async_context(
            EventWriter(storage.events, settings.writer, storage.metrics, attribution, storage.database.is_slow)
        )
        await stack.enter_async_context(build_projector(storage, engine, writer.is_busy))
        await stack.enter_async_context(LoopLag(storage.metrics))
        draining = asyncio.Event()
        feed = await stack.enter_async_context(ChangeFeed(storage.redis))
        watches = await stack.enter_async_context(
            WatchHub(engine.recommender, storage.states, feed, draining, settings.watch, storage.metrics)
        )
        hasher = KeyHasher(settings.auth)
        stack.callback(hasher.close)
        authenticator = Authenticator(
            storage.keys,
            hasher,
            lambda: feed.is_connected,
            settings.auth,
            storage.metrics,
            storage.database.is_slow,
        )
        feed.listen(authenticator.forget_all, on_key=authenticator.forget)
        health = Health(SERVICE_NAMES, storage.metrics)
        await stack.enter_async_context(
            DependencyWatch(
                {POSTGRESQL: partial(look, storage.database), REDIS: partial(_look_at_redis, storage.redis)},
                health.dependency_changed,
                every_s=settings.server.health_look_s,
            )
        )
        limits = TenantLimitSource(engine.profiles, settings.limits)
        access_log = AccessLog(settings.access_log)
        server = await _build_server(
            storage,
            engine,
            writer,
            watches,
            runner,
            hasher,
            authenticator,
            limits,
            access_log,
            health,
            draining,
            traces,
        )
        metrics_port = (
            stack.enter_context(exposed(storage.metrics.registry, settings.server.host, settings.server.metrics_port))
            if expose_metrics
            else None
        )
        port = await server.start()
        stack.push_async_callback(server.drain)
        yield Service(port, metrics_port, server, storage, engine, health, limits, access_log)


def _retention(storage: Storage) -> Retention:
    settings = storage.settings
    return Retention(
        {
            "events": storage.events.delete_expired,
            "shown": partial(storage.shown.delete_older, settings.engine.shown_days),
            "audit_log": partial(storage.audit_log.delete_older, settings.audit.retention_days),
        }
    )


async def _redis_arrival(storage: Storage) -> None:
    """Wait a moment for Redis, so that the first lists find it; without it the service starts all the same."""

    async def answer() -> None:
        if not await storage.redis.ping():
            raise _RedisAbsent("it does not answer")

    try:
        wait_s = storage.settings.server.start_wait_redis_s
        await arrival("Redis", answer, is_absence=_RedisAbsent, at_most_s=wait_s)
    except (_RedisAbsent, NotThereInTime):
        _log.warning("start.without_redis")


async def _look_at_redis(redis: RedisClient) -> Finding:
    return Finding(Condition.WELL if await redis.ping() else Condition.AWAY)


async def _build_server(
    storage: Storage,
    engine: Engine,
    writer: EventWriter,
    watches: WatchHub,
    runner: TrainingRunner,
    hasher: KeyHasher,
    authenticator: Authenticator,
    limits: TenantLimitSource,
    access_log: AccessLog,
    health: Health,
    draining: asyncio.Event,
    traces: Tracing | None,
) -> RpcServer:
    settings = storage.settings
    secret = settings.page_token_secret
    tokens = PageTokens(
        secret.get_secret_value().encode() if secret else await storage.tenants.service_secret("page_tokens")
    )
    validator = RequestValidator()
    scopes = required_scopes(FILES)
    authentication = Authentication(authenticator, storage.tenants, scopes, settings.tls.client_keys)
    limiting = Limits(limits, Permits(storage.redis))
    consistency = ConsistencyTokens(await storage.tenants.service_secret("consistency_tokens"))
    stages: list[Stage] = [
        access_log,
        Observation(storage.metrics, are_traced=traces is not None),
        Auditing(storage.audit_log, scopes),
        authentication,
        limiting,
        ReadYourWrites(storage.replicas, consistency),
    ]
    if traces is not None:
        stages[3:5] = [Traced(authentication, AUTH, traces.tracer), Traced(limiting, LIMITS, traces.tracer)]
        stages.insert(0, CallTold())
    pipeline = Pipeline(
        stages=stages,
        validator=validator,
        policies=policies(FILES, settings.server),
        settings=settings.server,
    )
    return RpcServer(
        pipeline,
        [DrawnCalls(traces)] if traces is not None else [],
        CatalogServicer(storage.items, storage.tenants, engine.profiles, tokens, validator),
        UserServicer(storage.users, tokens, validator),
        IngestionServicer(
            writer,
            storage.events,
            storage.event_types,
            engine.profiles,
            tokens,
            validator,
            draining,
            settings.server,
        ),
        RecommendationServicer(
            engine.recommender,
            engine.similar_items,
            engine.similar_users,
            engine.profiles,
            watches,
            tokens,
            validator,
            settings.server,
        ),
        ExperimentServicer(),
        AdminServicer(storage.tenants, storage.keys, hasher, authenticator, tokens, runner, settings.server),
        health,
        draining,
        Certificates.of(settings.tls),
        settings.server,
    )
