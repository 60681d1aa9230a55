"""Why the findings on custom resources' functions are accepted: the same for every handler."""

_NO_VPC = "custom resources call public AWS endpoints only: a VPC would add a NAT gateway and guard nothing"
_SYNCHRONOUS = "called by the deploy, which waits for the answer and reports the failure: nothing is left to queue"
_NO_RESERVATION = (
    "one deploy calls it a few times; reserving concurrency would take it from the account, and fail where the "
    "account's limit is the initial 10"
)
_LOGGED = "every step is logged, and one call has no path worth a trace"

HANDLER = {
    "L1": "the handlers are tested on this runtime, which is supported until 2029",
    "NIST.800.53.R5-LambdaConcurrency": _NO_RESERVATION,
    "NIST.800.53.R5-LambdaDLQ": _SYNCHRONOUS,
    "NIST.800.53.R5-LambdaInsideVPC": _NO_VPC,
    "Serverless-LambdaDLQ": _SYNCHRONOUS,
    "Serverless-LambdaLatestVersion": "the handlers are tested on this runtime, which is supported until 2029",
    "Serverless-LambdaTracing": _LOGGED,
}
FRAMEWORK = {
    "NIST.800.53.R5-LambdaConcurrency": _NO_RESERVATION,
    "NIST.800.53.R5-LambdaDLQ": _SYNCHRONOUS,
    "NIST.800.53.R5-LambdaInsideVPC": _NO_VPC,
    "Serverless-LambdaDLQ": _SYNCHRONOUS,
    "Serverless-LambdaTracing": _LOGGED,
    "Serverless-LambdaDefaultMemorySize": "the CDK's framework function only passes events on: 128 MB is enough",
}
LOG = {
    "NIST.800.53.R5-CloudWatchLogGroupEncrypted": "the log names resources and errors of a deploy, no data; CloudWatch "
    "encrypts it with a key of its own"
}
