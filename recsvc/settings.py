"""Everything that can be set, in one frozen tree, read from the environment (`RECSVC_…`) at start.

What the environment does not set may stand in the file that `RECSVC_SETTINGS_FILE` names, in lines of `RECSVC_…=value`.
`recsvc settings` prints the tree with its documentation and the values in force; secrets are masked. Nested settings
are named with a double underscore: `RECSVC_POSTGRES__POOL_SIZE=20`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

_FILE_VARIABLE = "RECSVC_SETTINGS_FILE"

LogLevel: TypeAlias = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)]


class PostgresSettings(BaseModel):
    """The connection pool and how statements run."""

    model_config = ConfigDict(frozen=True)

    replica_urls: Sequence[SecretStr] = Field(
        (),
        description='Read replicas, as JSON: ["URL", …]. Reads that may be a little old go there.',
    )
    replica_max_lag_s: float = Field(5.0, gt=0, description="A replica that lags more is not asked until it caught up.")
    replica_check_s: float = Field(1.0, gt=0, description="How often the lag is looked at, give or take a quarter.")
    replica_wait_s: float = Field(
        0.1, ge=0, description="How long a read that must see a write waits for a replica before the primary is asked."
    )
    replica_patience_s: float = Field(
        1.0,
        gt=0,
        description="How long a search or a look-up waits for a replica's answer before the primary is asked, too; less"
        " than fresh_list_s, or lists are degraded by a replica that says nothing.",
    )
    pool_min_size: int = Field(2, ge=1, description="Connections that each process keeps open.")
    pool_size: int = Field(10, ge=1, description="Connections that each process opens at most.")
    pool_timeout_s: float = Field(2.0, gt=0, description="How long a call waits for a free connection.")
    connect_timeout_s: float = Field(5.0, gt=0, description="How long one attempt to connect may take.")
    statement_timeout_s: float = Field(10.0, gt=0, description="Longest run of one statement on the request path.")
    bulk_statement_timeout_s: float = Field(600.0, gt=0, description="The same for imports, exports and training.")
    reconnect_s: float = Field(
        2.0, gt=0, description="After so long without a connection, attempts to make one begin again with short pauses."
    )
    breaker_failures: int = Field(5, ge=1, description="Failures in a row after which PostgreSQL is left alone.")
    breaker_reset_s: float = Field(1.0, gt=0, description="Pause after which PostgreSQL is tried again.")
    breaker_slow_s: float = Field(
        1.5,
        gt=0,
        description="A read that is given up after so long, or when nothing was answered for so long, counts as failed,"
        " and one that is answered as slow.",
    )
    slow_answer_s: float = Field(
        0.25,
        gt=0,
        description="When half of the statements that ask nothing of PostgreSQL take so long, for three seconds, calls"
        " that have something else to answer with wait for it no longer.",
    )
    prepare_statements: bool = Field(
        True, description="Server-side prepared statements; switch off behind PgBouncer before 1.21."
    )


class CacheSettings(BaseModel):
    """Redis and what is kept there."""

    model_config = ConfigDict(frozen=True)

    timeout_s: float = Field(0.25, gt=0, description="Longest wait for one answer of Redis.")
    pool_size: int = Field(64, ge=1, description="Connections to Redis that each process opens at most.")
    list_ttl_s: float = Field(
        60.0, gt=0, description="Age at which a cached list is computed anew even if nothing changed."
    )
    stale_ttl_s: float = Field(
        3600.0, ge=0, description="How old a list may be that is answered, and called stale, while PostgreSQL is away."
    )
    version_ttl_s: float = Field(86_400.0, gt=0, description="How long the version of a user's state is remembered.")
    breaker_failures: int = Field(5, ge=1, description="Failures in a row after which Redis is left alone.")
    breaker_reset_s: float = Field(5.0, gt=0, description="Pause after which Redis is tried again.")


class ServerSettings(BaseModel):
    """The gRPC server and the plain HTTP port beside it."""

    model_config = ConfigDict(frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    metrics_port: int = Field(8080, ge=0, le=65535, description="HTTP port of /metrics; 0 takes a free one.")
    workers: int = Field(
        1, ge=1, le=256, description="Processes that serve the port; each has pools, caches and limits of its own."
    )
    reflection: bool = Field(True, description="Server reflection, so that grpcurl needs no proto files.")
    max_request_bytes: int = Field(1024 * 1024, ge=1024, description="Largest request of a method that is not bulk.")
    max_bulk_request_bytes: int = Field(
        4 * 1024 * 1024, ge=1024, description="Largest message of a batch or a bulk stream, decompressed."
    )
    max_metadata_bytes: int = Field(16 * 1024, ge=1024, description="Largest metadata of a call.")
    stream_max_messages: int = Field(10_000_000, ge=1, description="Messages that one stream of requests may have.")
    stream_max_bytes: int = Field(64 * 2**30, ge=1024, description="Bytes that one stream of requests may have.")
    max_concurrent_calls: int = Field(
        5000, ge=1, description="Calls in flight at once, those of watchers among them; more are refused."
    )
    default_deadline_s: float = Field(
        10.0, gt=0, description="Deadline of a unary call that brings none, and of each element of a bulk stream."
    )
    bulk_in_flight: int = Field(
        512, ge=1, le=1000, description="Elements of one BulkRecommend stream that are being answered at once."
    )
    stream_messages_in_flight: int = Field(
        64, ge=1, le=1000, description="Messages of one StreamEvents stream that are read and not yet acknowledged."
    )
    stream_idle_s: float = Field(
        600.0, gt=0, description="A StreamEvents stream that says nothing for so long is ended."
    )
    start_wait_s: float = Field(
        60.0, ge=0, description="How long `recsvc serve` waits for PostgreSQL at start before it gives up."
    )
    start_wait_redis_s: float = Field(
        5.0, ge=0, description="How long it waits for Redis at start before it serves without."
    )
    health_look_s: float = Field(1.0, gt=0, description="Time between two looks at PostgreSQL and Redis for health.")
    lame_duck_s: float = Field(
        1.0,
        ge=0,
        description="How long after SIGTERM calls are still taken while health says NOT_SERVING; longer than whoever"
        " balances the load needs to notice.",
    )
    drain_s: float = Field(10.0, ge=0, description="How long calls in flight may go on after that.")


class TlsSettings(BaseModel):
    """Certificates of the gRPC port. Files that are replaced are served to new connections without a restart."""

    model_config = ConfigDict(frozen=True)

    cert_file: Path | None = Field(None, description="Certificate chain in PEM; without it the port is plain text.")
    key_file: Path | None = Field(None, description="Its private key in PEM, without a password.")
    client_ca_file: Path | None = Field(
        None, description="Authorities in PEM; with it only clients with a certificate of one of them are let in."
    )
    client_keys: Mapping[str, str] = Field(
        {},
        description="Client certificates that stand for API keys: subject alternative name, or common name where there"
        ' is none, to key id, as JSON: {"spiffe://shop/web": "k3…"}.',
    )

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file must be set together")
        if self.client_ca_file is not None and self.cert_file is None:
            raise ValueError("client_ca_file needs cert_file and key_file")
        if self.client_keys and self.client_ca_file is None:
            raise ValueError("client_keys needs client_ca_file")
        return self


class AuthSettings(BaseModel):
    """API keys: cost of the hash and life of the cache."""

    model_config = ConfigDict(frozen=True)

    argon2_time_cost: int = Field(2, ge=1, description="argon2id passes.")
    argon2_memory_kib: int = Field(19_456, ge=8, description="argon2id memory (OWASP minimum: 19 MiB).")
    argon2_parallelism: int = Field(1, ge=1, description="argon2id lanes.")
    cache_ttl_s: float = Field(
        30.0,
        gt=0,
        description="How long a verified key is trusted without the database; 1 s while nothing is heard from Redis.",
    )
    outage_ttl_s: float = Field(
        600.0,
        ge=0,
        description="How long a verified key is trusted while PostgreSQL is away, unless Redis tells of a change.",
    )
    cache_size: int = Field(10_000, ge=1, description="Verified keys remembered per process.")
    verification_threads: int = Field(2, ge=1, le=64, description="Threads that compute argon2id, at low priority.")
    verifications_waiting: int = Field(
        64, ge=1, description="Keys being verified at once, or waiting for it; further unknown keys are refused."
    )
    bootstrap_keys: SecretStr | None = Field(
        None,
        description="Keys to make at start, lines of key_id:argon2id-hash:tenant:scopes, as `recsvc keys hash` prints.",
    )
    bootstrap_keys_file: Path | None = Field(None, description="A file of such lines.")


class AuditSettings(BaseModel):
    """The log of administrative actions."""

    model_config = ConfigDict(frozen=True)

    retention_days: int = Field(400, ge=31, description="How long entries of the audit log are kept.")


class AccessLogSettings(BaseModel):
    """Which calls the log tells of; all that fail, as far as there is room."""

    model_config = ConfigDict(frozen=True)

    ok_share: float = Field(0.0, ge=0, le=1, description="Share of the calls that went well that are logged, too.")
    slow_s: float = Field(1.0, gt=0, description="A call that is no stream is logged once it took so long.")
    lines_per_second: int = Field(100, ge=1, description="Calls that each process logs at most within a second.")


class MetricsSettings(BaseModel):
    """What /metrics tells."""

    model_config = ConfigDict(frozen=True)

    tenants: int = Field(
        0,
        ge=0,
        le=1000,
        description="How many tenants each process tells apart by name, the busiest ones; the rest are other. 0: none.",
    )
    census_s: float = Field(
        30.0, gt=0, description="How often what is stored, models and training runs are looked at, for gauges."
    )


class LimitSettings(BaseModel):
    """What each tenant may do unless its own settings (RateLimits) say otherwise."""

    model_config = ConfigDict(frozen=True)

    reads_per_second: float = Field(0.0, ge=0, le=1e6, description="Calls of reading methods; 0 for no limit.")
    writes_per_second: float = Field(0.0, ge=0, le=1e6, description="Calls of writing methods; 0 for no limit.")
    bulk_elements_per_second: float = Field(
        0.0, ge=0, le=1e6, description="Elements of batches and bulk streams; 0 for no limit."
    )
    admin_calls_per_second: float = Field(0.0, ge=0, le=1e6, description="Calls of AdminService; 0 for no limit.")
    burst_seconds: float = Field(1.0, gt=0, le=3600, description="How many seconds' worth may come at once.")
    key_share: float = Field(1.0, gt=0, le=1, description="The part of each rate that a single API key may use.")
    max_streams: int = Field(4000, ge=1, description="Streams that a tenant has open at once at each process.")
    max_calls: int = Field(2000, ge=1, description="Unary calls of a tenant in flight at once at each process.")


class EngineSettings(BaseModel):
    """How many candidates are looked at, and how much of a user's history counts."""

    model_config = ConfigDict(frozen=True)

    history_events: int = Field(
        20_000,
        ge=1,
        description="Events of a user that the fold-in reads, newest first; items of older ones count as not seen.",
    )
    history_items: int = Field(1000, ge=1, description="Items of a user's history that the fold-in uses, newest first.")
    neighbor_history_items: int = Field(1000, ge=1, description="Items of the history whose neighbours are looked up.")
    neighbors_per_item: int = Field(300, ge=1, description="Neighbours of each of them that are looked at, best first.")
    candidates: int = Field(200, ge=10, description="Candidates that each source gives at least.")
    searches_in_flight: int = Field(
        8, ge=1, description="Searches for candidates in PostgreSQL that are under way at once; the rest wait."
    )
    snapshot_mib: int = Field(
        128, ge=0, description="Memory for catalogues and models that lists are made from without a search; MiB."
    )
    remembered_states_mib: int = Field(
        16,
        ge=0,
        description="Memory for the states of users asked for last, of which partial lists are made while PostgreSQL"
        " is away; MiB.",
    )
    counters_life_s: float = Field(
        0.5,
        ge=0,
        description="How old the counters of items may be that such lists go by; they wait for new ones past four times"
        " that. 0: no older than the question.",
    )
    fresh_list_s: float = Field(
        2.0, gt=0, description="How long a call waits for a fresh list before it is content with an older one."
    )
    shown_days: int = Field(90, ge=1, description="How long the log of shown lists is kept, for attribution.")
    shown_queue: int = Field(
        10_000, ge=1, description="Shown lists waiting to be logged; more are dropped and counted."
    )


class WriterSettings(BaseModel):
    """How events of many callers are committed together."""

    model_config = ConfigDict(frozen=True)

    batch: int = Field(8000, ge=1, description="Events that one transaction writes at most.")
    batches_in_flight: int = Field(3, ge=1, description="Transactions of one tenant that are under way at once.")
    gather_s: float = Field(
        0.025,
        ge=0,
        description="How long a batch waits at most for most callers of the one before, while many write.",
    )
    queue: int = Field(
        40_000, ge=1, description="Events that wait or are being written at once; unary calls beyond it are refused."
    )
    stream_queue: int = Field(
        32_000, ge=1, description="Those of them that may come from streams; beyond it streams are read no further."
    )


class WatchSettings(BaseModel):
    """Lists that are watched."""

    model_config = ConfigDict(frozen=True)

    watchers: int = Field(4000, ge=1, description="Watchers that each process serves at most.")
    questions_in_flight: int = Field(4, ge=1, description="Lists that are computed for watchers at once.")
    question_s: float = Field(10.0, gt=0, description="Longest time for one of them.")
    heartbeat_s: float = Field(15.0, gt=0, description="After so long without a list a watcher hears that it is alive.")
    poll_s: float = Field(1.0, gt=0, description="How often lists are looked at while Redis tells of no changes.")


class TracingSettings(BaseModel):
    """Traces of calls, sent to an OpenTelemetry collector."""

    model_config = ConfigDict(frozen=True)

    enabled: bool = Field(False, description="Whether there are any; off, they cost nothing.")
    endpoint: str = Field(
        "http://127.0.0.1:4317",
        pattern=r"^https?://[^/@\s]+$",
        description="Where the collector takes OTLP over gRPC; https:// for TLS.",
    )
    ca_file: Path | None = Field(
        None, description="Authorities of the collector's certificate in PEM; without it those that gRPC brings along."
    )
    headers: Mapping[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.-]+$")], SecretStr] = Field(
        {}, description='Sent with each export, as JSON: {"authorization": "Bearer …"}.'
    )
    ratio: float = Field(
        0.05, ge=0, le=1, description="Share of the calls that are traced, of those whose caller has not decided it."
    )
    calls_per_s: float = Field(
        100.0, gt=0, description="Calls that each process records a second at most, whatever callers decide."
    )
    spans_per_call: int = Field(128, ge=1, le=10_000, description="Spans of one call, or stream, at most.")
    service_name: str = Field("recsvc", min_length=1, description="Name of the service in traces.")
    instance: str = Field("", description="Name of this machine in traces, before the process id; empty for its own.")
    queue: int = Field(4096, ge=1, description="Spans that wait to be sent; more are dropped and counted.")
    batch: int = Field(512, ge=1, description="Spans that are sent at once.")
    every_s: float = Field(1.0, gt=0, description="How often spans are sent.")
    timeout_s: float = Field(5.0, gt=0, description="How long the collector may take for a batch, repeats included.")
    flush_s: float = Field(3.0, gt=0, description="How long the end of the process waits for the last spans.")


class TrainingSettings(BaseModel):
    """What training may use."""

    model_config = ConfigDict(frozen=True)

    dimension: int = Field(
        1024, ge=2, le=4000, description="Length of item vectors at most; fewer where fewer do better."
    )
    neighbors: int = Field(300, ge=1, description="Neighbours kept per item at most.")
    ease_items: int = Field(
        60_000, ge=0, description="Up to so many items EASE is tried, exactly or by its local approximation."
    )
    ease_interactions: int = Field(5_000_000, ge=0, description="Up to so many interactions EASE is tried.")
    exact_search_items: int = Field(
        5000, ge=0, description="Up to so many items, vectors are searched without an index."
    )
    keep_models: int = Field(3, ge=1, description="Ready models kept per tenant for roll-back.")


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix="RECSVC_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        # A secret under a name that is misspelt is one all the same.
        hide_input_in_errors=True,
    )

    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL 16+ with pgvector 0.8+; without it the embedded one under embedded_dir is used.",
    )
    redis_url: SecretStr | None = Field(None, description="Redis 6+; without it the embedded one is used.")
    embedded_dir: Path = Field(Path(".data"), description="Home of the embedded servers' data.")
    log_level: LogLevel = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field("auto", description="json, console, or auto (console on a terminal).")
    page_token_secret: SecretStr | None = Field(
        None, description="Key that signs page tokens; without it one is made and kept in the database."
    )
    postgres: PostgresSettings = PostgresSettings()
    cache: CacheSettings = CacheSettings()
    server: ServerSettings = ServerSettings()
    tls: TlsSettings = TlsSettings()
    auth: AuthSettings = AuthSettings()
    audit: AuditSettings = AuditSettings()
    access_log: AccessLogSettings = AccessLogSettings()
    metrics: MetricsSettings = MetricsSettings()
    limits: LimitSettings = LimitSettings()
    engine: EngineSettings = EngineSettings()
    writer: WriterSettings = WriterSettings()
    watch: WatchSettings = WatchSettings()
    tracing: TracingSettings = TracingSettings()
    training: TrainingSettings = TrainingSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - of a file whose name does not change
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment, then the settings file. Raises FileNotFoundError when the file is named and missing."""
        name = os.environ.get(_FILE_VARIABLE)
        if not name:
            return init_settings, env_settings
        if not Path(name).is_file():
            raise FileNotFoundError(f"{_FILE_VARIABLE}: there is no file {name}")
        return init_settings, env_settings, DotEnvSettingsSource(settings_cls, env_file=name)
