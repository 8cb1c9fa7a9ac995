"""What can go wrong with a provider. Nothing else ever leaves an adapter.

ProviderError
├── RetryableError           another try, here or elsewhere, may succeed
│   ├── RateLimited          429; `retry_after` says when
│   ├── Overloaded           500, 502, 503, 504, 529, 408, 409
│   ├── ProviderUnreachable  no connection, or it was cut
│   └── ProviderTimeout      no answer in time
├── BadRequest               400, 404, 413, 422: this request fails anywhere it means the same
│   └── ContextTooLong       the prompt does not fit; a larger model may take it
├── AuthenticationFailed     401, 403: our key is wrong; another provider may work
├── ModelNotFound            404 for the model: another provider may have it
├── ContentFiltered          refused by the provider's safety system
├── InvalidResponse          an answer that its own documentation does not allow
│   └── EmptyAnswer          one without a word in it; may be the prompt's fault
├── Cancelled                the job was cancelled, or its lease lost, during the call
└── AllProvidersFailed       the router: every candidate failed, each as told in `attempts`
    └── NoCapacity           the router: none may be asked now; nothing was called
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.inference import Attempt


class ProviderError(Exception):
    """The provider could not answer."""

    type = "provider_error"
    retryable = False  # the same call to the same provider may succeed later
    failover = True  # another provider may succeed

    def __init__(
        self,
        message: str | None = None,
        *,
        provider: str = "",
        model: str = "",
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])
        self.provider = provider
        self.model = model
        self.status = status  # HTTP status, where there was one
        self.retry_after = retry_after  # seconds, where the provider said so
        self.attempts: Sequence[Attempt] = ()  # set by the router on what it raises


class RetryableError(ProviderError):
    """The provider could not answer just now."""

    retryable = True


class RateLimited(RetryableError):
    """The provider's rate limit is reached."""

    type = "rate_limited"


class Overloaded(RetryableError):
    """The provider answered with a server error."""

    type = "overloaded"


class ProviderUnreachable(RetryableError):
    """The provider could not be reached, or the connection was cut."""

    type = "unreachable"


class ProviderTimeout(RetryableError):
    """The provider did not answer in time."""

    type = "timeout"


class BadRequest(ProviderError):
    """The provider refused the request as malformed."""

    type = "bad_request"
    failover = False


class ContextTooLong(BadRequest):
    """The prompt does not fit into the model's context window."""

    type = "context_too_long"
    failover = True


class AuthenticationFailed(ProviderError):
    """The provider refused our credentials."""

    type = "authentication_failed"


class ModelNotFound(ProviderError):
    """The provider does not have this model."""

    type = "model_not_found"


class ContentFiltered(ProviderError):
    """The provider's safety system refused the prompt or the answer."""

    type = "content_filtered"
    failover = False


class InvalidResponse(ProviderError):
    """The provider's answer is not what its documentation allows."""

    type = "invalid_response"
    retryable = True


class EmptyAnswer(InvalidResponse):
    """The provider's answer is empty."""


class Cancelled(ProviderError):
    """The call was given up because its job ended."""

    type = "cancelled"
    failover = False


class AllProvidersFailed(ProviderError):
    """Every provider that could have answered failed."""

    type = "all_providers_failed"
    failover = False

    def __init__(
        self,
        message: str | None = None,
        *,
        attempts: Sequence[Attempt] = (),
        retry_after: float | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.attempts = tuple(attempts)
        self.retryable = retryable  # the same job may succeed later


class NoCapacity(AllProvidersFailed):
    """Every provider is at its rate limit or its circuit is open."""

    type = "no_capacity"
