"""Every setting, read once from the environment and from `.env`."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from config.lanes import LaneCounts, LaneNames, LaneSeconds, counts_by_lane
from config.sentinel import is_sentinel, parse_sentinel_url

MIN_SECRET_BYTES = 32  # RFC 7518, 3.2: an HS256 key is at least as long as its hash


def _redis_url(value: str) -> str:
    if not value.startswith(("redis://", "rediss://", "unix://", "sentinel://")):
        raise ValueError("must start with redis://, rediss://, unix:// or sentinel://")
    if is_sentinel(value):
        parse_sentinel_url(value)
    return value


def _long_enough(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value().encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"must be at least {MIN_SECRET_BYTES} bytes long")
    return value


def _can_trace() -> bool:
    # Other packages may bring a part of OpenTelemetry; the exporter comes with ours alone.
    return bool(find_spec("opentelemetry") and find_spec("opentelemetry.exporter"))


def _comma_separated(value: object) -> object:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


def _shared_pools(value: object) -> object:
    """`acme=team, beta=team` as a mapping."""
    if not isinstance(value, str):
        return value
    pairs = [item.partition("=") for item in value.split(",") if item.strip()]
    if any(not tenant.strip() or not pool.strip() for tenant, _, pool in pairs):
        raise ValueError("must read tenant=pool, comma separated, as in acme=team,beta=team")
    return {tenant.strip(): pool.strip() for tenant, _, pool in pairs}


RedisURL = Annotated[str, AfterValidator(_redis_url)]
JWTSecret = Annotated[SecretStr, AfterValidator(_long_enough)]


class Settings(BaseSettings):
    """All settings. Names are those of the environment variables, in lower case."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=False,
    )

    # --- Redis -----------------------------------------------------------------------------
    redis_url: RedisURL | None = Field(
        default=None,
        description="Broker and job ledger; must never evict. redis://, rediss://, unix:// or "
        "sentinel://host:port,host:port/primary/database",
    )
    redis_host: str = Field(default="127.0.0.1", description="Used when REDIS_URL is not set.")
    redis_port: int = Field(default=6379, ge=1, le=65535)
    redis_password: SecretStr | None = None
    cache_redis_url: RedisURL | None = Field(
        default=None, description="Response cache, with RediSearch. Defaults to the broker's."
    )
    key_prefix: str = Field(
        default="if:", pattern=r"^[A-Za-z0-9:_-]{1,40}$", description="Before every key of ours."
    )
    redis_timeout_seconds: float = Field(
        default=0.45, gt=0, le=30, description="For one command of the API."
    )
    durability: Literal["local", "replicated"] = Field(
        default="local",
        description="replicated: a job is accepted when a replica of Redis has it too.",
    )
    replication_timeout_seconds: float = Field(
        default=0.4, gt=0, le=10, description="For that replica; less than a command may take."
    )

    # --- API -------------------------------------------------------------------------------
    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8000, ge=1, le=65535)
    api_workers: int = Field(default=1, ge=1, le=64, description="API processes.")
    api_threads: int = Field(
        default=1024, ge=8, le=8192, description="Requests an API process holds at once."
    )
    max_tenant_held: int = Field(
        default=512,
        ge=1,
        description="Requests of one tenant that an API process holds at once: waits and streams.",
    )
    max_body_bytes: int = Field(default=4_000_000, ge=1_000, le=200_000_000)
    max_wait_seconds: float = Field(default=60, ge=1, le=600, description="Longest `wait`.")
    openai_wait_seconds: float = Field(
        default=600, ge=1, le=3600, description="Longest wait of a whole chat completion."
    )
    jwt_secret_key: JWTSecret | None = Field(
        default=None, description="Signs and verifies tokens (HS256)."
    )
    jwt_previous_keys: Annotated[list[JWTSecret], NoDecode, BeforeValidator(_comma_separated)] = (
        Field(
            default_factory=list,
            description="Keys that still verify, comma separated, for rotation.",
        )
    )
    jwt_expires_seconds: int = Field(default=3600, ge=60, le=31_536_000)
    rate_limit_requests: int = Field(default=100, ge=1, description="Per user and window.")
    rate_limit_window: int = Field(default=60, ge=1, le=86_400, description="Seconds.")

    # --- Jobs ------------------------------------------------------------------------------
    default_deadline_seconds: float = Field(default=600, ge=1, le=604_800)
    job_retention_seconds: int = Field(
        default=86_400, ge=60, le=2_592_000, description="How long an ended job can be read."
    )
    max_attempts: int = Field(
        default=3, ge=1, le=20, description="Runs of one job before it is given up."
    )
    lease_seconds: float = Field(
        default=8.0, ge=1, le=300, description="A worker silent for this long has lost its job."
    )
    max_queue_depth: int = Field(
        default=200_000, ge=1, description="Waiting jobs in all, then 503."
    )
    max_tenant_queue_depth: int = Field(
        default=100_000, ge=1, description="Waiting jobs of one tenant, then 429."
    )
    budgets_enabled: bool = Field(
        default=True, description="Hold every job against its account's budgets and limits."
    )
    age_low_seconds: float = Field(
        default=300.0, ge=1, description="Waiting this long moves a job up one priority."
    )

    # --- Workers ---------------------------------------------------------------------------
    max_workers: int = Field(
        default=32, ge=1, le=512, description="Jobs one worker process runs at once."
    )
    prometheus_port: int = Field(
        default=9464, ge=0, le=65535, description="Metrics of the first worker; 0: none."
    )
    prometheus_host: str = Field(
        default="127.0.0.1", description="Where a worker serves its metrics; 0.0.0.0: everywhere."
    )
    metrics_token: SecretStr | None = Field(
        default=None, description="Asked for by /v1/metrics as a bearer token, if set."
    )
    metrics_tenants: int = Field(
        default=50, ge=0, le=1_000, description="Tenants with a label of their own in metrics."
    )
    heartbeat_file: Path | None = Field(
        default=None, description="Touched while a worker is healthy, for its liveness probe."
    )

    task_events: bool = Field(
        default=True, description="Workers send Celery's events, for Flower and celery-exporter."
    )

    # --- Files and batches -----------------------------------------------------------------
    files_url: str = Field(
        default="file://var/files",
        pattern=r"^(file|s3|memory)://",
        description="Where files are kept: file://folder or s3://bucket/prefix.",
    )
    file_retention_seconds: int = Field(
        default=2_592_000, ge=3_600, description="How long a file is kept unless it says else."
    )
    batch_max_lines: int = Field(default=50_000, ge=1, le=1_000_000)
    batch_max_bytes: int = Field(default=200_000_000, ge=1_000, le=10_000_000_000)
    batch_slice_lines: int = Field(
        default=200, ge=1, le=1_000, description="Lines of a batch that become jobs in one step."
    )
    batch_open_lines: int = Field(
        default=5_000,
        ge=1,
        description="A tenant's open jobs up to which its batches put more lines into the queue.",
    )

    # --- Webhooks --------------------------------------------------------------------------
    webhook_allow_hosts: Annotated[list[str], NoDecode, BeforeValidator(_comma_separated)] = Field(
        default_factory=list,
        description="Internal receivers: host names, addresses or CIDR ranges, comma separated.",
    )
    webhook_timeout_seconds: float = Field(
        default=15.0, gt=0, le=60, description="For one delivery, all in all."
    )
    webhook_concurrency: int = Field(
        default=64, ge=1, le=1_024, description="Deliveries a webhook process makes at once."
    )
    webhook_endpoint_concurrency: int = Field(
        default=4, ge=1, le=100, description="Deliveries to one endpoint at once."
    )
    webhook_tenant_concurrency: int = Field(
        default=16, ge=1, le=1_024, description="Deliveries of one tenant at once."
    )
    webhook_disable_seconds: int = Field(
        default=259_200, ge=1, description="An endpoint that failed for so long is disabled."
    )

    # --- Cache -----------------------------------------------------------------------------
    cache_semantic: bool = Field(
        default=True, description="Serve what means the same; false: only exact repeats."
    )
    cache_ttl: int = Field(default=86_400, ge=1, le=31_536_000, description="Seconds.")
    cache_sliding_ttl: bool = Field(
        default=False, description="Whether a hit starts CACHE_TTL anew."
    )
    cache_shared_pools: Annotated[dict[str, str], NoDecode, BeforeValidator(_shared_pools)] = Field(
        default_factory=dict,
        description="Tenants that share their answers, as tenant=pool, comma separated.",
    )
    cache_max_bytes: int = Field(default=536_870_912, ge=1_000_000, description="Of answers.")
    similarity_threshold: float = Field(
        default=0.82, ge=0.5, le=1.0, description="Least cosine of a semantic hit."
    )
    cache_verifier_bar: float = Field(
        default=0.46, ge=0.0, le=1.0, description="Least verifier score of a semantic hit."
    )
    cache_wait_seconds: float = Field(
        default=0.1,
        ge=0.0,
        le=60.0,
        description="A prompt that waits longer for the embedder gets no semantic lookup.",
    )
    cache_shadow_rate: float = Field(
        default=0.05,
        ge=0.0,
        le=1.0,
        description="Share of doubtful hits that are checked; of clear ones a tenth of it.",
    )
    cache_shadow_calls_per_hour: int = Field(
        default=60, ge=0, description="Provider calls for checking, per tenant."
    )
    cache_max_error_rate: float = Field(
        default=0.02, ge=0.0, le=1.0, description="Wrong semantic hits above which the bar rises."
    )
    embedding_model: str = Field(
        default="all-MiniLM-L6-v2", description="A sentence-transformers name or folder."
    )

    # --- Scaler ----------------------------------------------------------------------------
    scaler_mode: Literal["recommend", "floor", "act"] = Field(
        default="recommend",
        description="recommend: only say it; floor: set the minimum of an HPA or ScaledObject; "
        "act: scale.",
    )
    scaler_interval: float = Field(
        default=60.0, ge=0, le=300, description="Seconds between ticks; 0: the scaler is off."
    )
    scaler_unit: Literal["requests", "tokens"] = Field(
        default="requests", description="What is forecast."
    )
    scaler_wait_seconds: LaneSeconds = Field(
        default="high=5,normal=60,low=300",
        description="A job that waits longer than this for a worker is late.",
    )
    scaler_late_share: float = Field(
        default=0.01, gt=0, lt=1, description="Share of jobs that may be late."
    )
    scaler_cold_start_seconds: float = Field(
        default=60.0, ge=0, le=3600, description="From asking for a replica to its first job."
    )
    scaler_min_replicas: LaneCounts = Field(
        default="high=1,normal=1,low=1", description="Per queue; 0 for low lets it sleep."
    )
    scaler_max_replicas: LaneCounts = Field(
        default="high=20,normal=20,low=20", description="Per queue."
    )
    scaler_max_total_replicas: int | None = Field(
        default=None, ge=1, description="Over all queues, high first."
    )
    scaler_max_cost_per_hour: float | None = Field(
        default=None, gt=0, description="US dollars over all queues, high first."
    )
    scaler_cost_per_replica_hour: float = Field(default=0.0, ge=0, description="US dollars.")
    scaler_deployments: LaneNames = Field(
        default="high=worker-high,normal=worker-normal,low=worker-low",
        description="The Deployment that serves each queue.",
    )
    scaler_namespace: str | None = Field(
        default=None, max_length=63, description="Of those; by default that of the scaler's pod."
    )
    scaler_kubeconfig: Path | None = Field(
        default=None, description="For a scaler outside the cluster that it scales."
    )

    # --- Providers -------------------------------------------------------------------------
    openai_api_key: SecretStr | None = None
    openai_base_url: AnyHttpUrl | None = None
    anthropic_api_key: SecretStr | None = None
    anthropic_base_url: AnyHttpUrl | None = None
    google_api_key: SecretStr | None = None
    google_base_url: AnyHttpUrl | None = None
    cohere_api_key: SecretStr | None = None
    cohere_base_url: AnyHttpUrl | None = None
    local_api_key: SecretStr | None = None
    local_base_url: AnyHttpUrl | None = Field(
        default=None, description="Any OpenAI-compatible server; `inferenceflow up` sets it."
    )
    models_file: Path | None = Field(default=None, description="In place of config/models.yaml.")
    provider_connect_seconds: float = Field(default=3.0, gt=0, le=60)
    provider_read_seconds: float = Field(
        default=60.0, gt=0, le=600, description="Longest silence of a provider."
    )

    # --- Elsewhere -------------------------------------------------------------------------
    database_url: str = "sqlite:///var/inferenceflow.db"
    grafana_url: AnyHttpUrl | None = None
    tracing: bool = Field(
        default=False,
        description="Send traces by OTLP over HTTP; OTEL_EXPORTER_OTLP_ENDPOINT and its like say "
        "where to. Needs inferenceflow[traces].",
    )
    tracing_forward: bool = Field(
        default=False, description="Send the trace's `traceparent` along to providers."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console on a terminal, JSON elsewhere."
    )
    log_prompts: bool = Field(default=False, description="Let prompt text into the logs.")

    @model_validator(mode="after")
    def _replication_fits_into_a_command(self) -> Self:
        if self.replication_timeout_seconds >= self.redis_timeout_seconds:
            raise ValueError("REPLICATION_TIMEOUT_SECONDS must be below REDIS_TIMEOUT_SECONDS")
        return self

    @model_validator(mode="after")
    def _replicas_have_room(self) -> Self:
        least = counts_by_lane(self.scaler_min_replicas)
        most = counts_by_lane(self.scaler_max_replicas)
        if any(least[lane] > most[lane] for lane in least):
            raise ValueError("SCALER_MIN_REPLICAS must not be above SCALER_MAX_REPLICAS")
        if not least["high"] or not least["normal"]:
            raise ValueError("SCALER_MIN_REPLICAS: only low may go to 0")
        return self

    @model_validator(mode="after")
    def _traces_can_be_made(self) -> Self:
        if self.tracing and not _can_trace():
            raise ValueError("TRACING is on: install what it needs, inferenceflow[traces]")
        return self

    @property
    def broker_url(self) -> str:
        """Where broker and ledger are."""
        if self.redis_url:
            return self.redis_url
        secret = self.redis_password.get_secret_value() if self.redis_password else ""
        login = f":{quote(secret, safe='')}@" if secret else ""
        return f"redis://{login}{self.redis_host}:{self.redis_port}/0"

    @property
    def cache_url(self) -> str:
        """Where the response cache is."""
        return self.cache_redis_url or self.broker_url


class BadSettingsError(Exception):
    """A setting has a value that cannot be used."""


def load_settings() -> Settings:
    """The settings of this process. Raises BadSettingsError with one line for each fault."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            _in_words(str(fault["loc"][0]) if fault["loc"] else "", fault["msg"])
            for fault in error.errors(include_input=False, include_url=False)
        ]
        raise BadSettingsError("; ".join(lines)) from None


def _in_words(name: str, fault: str) -> str:
    fault = fault.removeprefix("Value error, ")
    if not name:  # a fault between settings names them itself
        return fault
    field = Settings.model_fields.get(name)
    accepts = f" ({field.description})" if field and field.description else ""
    return f"{name.upper()}: {fault}{accepts}"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process; a bad value ends it with one line on stderr."""
    try:
        return load_settings()
    except BadSettingsError as error:
        sys.exit(f"inferenceflow: bad setting: {error}")
