"""What InvokeEndpoint answers when it does not answer: names, statuses and members of the service's published model.

On the wire (protocol rest-json) an error is its name in `x-amzn-ErrorType` and its members as a JSON object.
"""

from typing import Any, ClassVar

from headrace.simulate.rules import MESSAGE_MAX

ACCOUNT = "000000000000"
REGION = "us-east-1"


class ApiError(Exception):
    """str(): the Message member."""

    status: ClassVar[int]
    name: ClassVar[str]

    def document(self) -> dict[str, Any]:
        return {"Message": str(self)}


class ValidationError(ApiError):
    """The request, or the package that it names, is at fault."""

    status, name = 400, "ValidationError"


class BodyTooLarge(ApiError):
    """Not in the model: the front door of the service refuses it, and SDKs show the bare status as the error's code."""

    status, name = 413, "413"


class ModelNotReady(ApiError):
    """The load has not ended by the time that the request must be answered; it goes on."""

    status, name = 429, "ModelNotReadyException"


class InternalFailure(ApiError):
    status, name = 500, "InternalFailure"


class ServiceUnavailable(ApiError):
    """No container is in service, or too much is asked of this one process."""

    status, name = 503, "ServiceUnavailable"


class ModelError(ApiError):
    """The container answered with an error, to a load or to an invocation, or not at all (original_status 0)."""

    status, name = 424, "ModelError"

    def __init__(self, original_status: int, original_message: str, endpoint: str) -> None:
        self.original_status = original_status
        self.original_message = original_message[:MESSAGE_MAX]
        self.group = f"/aws/sagemaker/Endpoints/{endpoint}"
        side = "client" if 400 <= original_status < 500 else "server"
        super().__init__(
            f'Received {side} error ({original_status}) from primary with message "{self.original_message}". '
            f"See the log of {self.group} in account {ACCOUNT} for more information."
        )

    def document(self) -> dict[str, Any]:
        return {
            **super().document(),
            "OriginalStatusCode": self.original_status,
            "OriginalMessage": self.original_message,
            "LogStreamArn": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{self.group}",
        }
