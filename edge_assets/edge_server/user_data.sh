#!/bin/bash
# Makes a fresh instance a Greengrass core device (manual provisioning: no installer creates roles, aliases or
# policies). The lines before this text export, in single quotes:
#   EDGEWRIGHT_REGION, _STAGE, _THING_NAME, _THING_GROUP, _IOT_POLICY, _ROLE_ALIAS, _ARTIFACT_BUCKET
#   EDGEWRIGHT_NUCLEUS_URL, _NUCLEUS_SHA256    the nucleus' zip, pinned by its digest
#   EDGEWRIGHT_PYTHON                          of the wheels that will be installed, such as 3.12
#   EDGEWRIGHT_SIGNAL_URL                      where CloudFormation waits for the outcome (a signed address)
# and nucleus_lite.sh, or nucleus_java.sh with nucleus_classic.sh or nucleus_docker.sh, define ROOT, SERVICE,
# install_packages, prepare_nucleus, write_config and start_nucleus.
# Rights of the instance's role:
#   iot:DescribeEndpoint, iot:CreateKeysAndCertificate                   *
#   iot:AttachPolicy, iot:DetachPolicy                                   cert/* (and the policy, where it is checked)
#   iot:AttachThingPrincipal, iot:DetachThingPrincipal                   * (they act on a principal)
#   iot:AddThingToThingGroup                                             the thing, the thing group
#   iot:UpdateCertificate, iot:DeleteCertificate                         cert/* (only to take a failed attempt back)
# Safe to run again: what is done is not done twice, and a certificate made by a run that fails is deleted again.
# Last line in the journal (journalctl -t edgewright-edge-server): "success: …" or "failure: …"; exit code 0 or 1.
# The same text goes to CloudFormation, whose deploy fails with it.
set -euo pipefail

# SHA-256 of the DER form of "Amazon Root CA 1", which signs every endpoint a core device talks to.
CA_SHA256="8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e"
TAG=edgewright-edge-server

certificate_arn="" # of a certificate that this run made, until the run has succeeded
doing="start"      # for the last line
cause=""           # of the failure, where this script knows it
signalled=""       # an instance that starts again has told its outcome
scratch=""         # only root can read it: the private key is there for a moment
journal_pid=""

log() { printf '%s\n' "$*" >&2; }

fail() {
  cause="$*"
  log "error: $*"
  exit 1
}

# Repeat a command that may fail for a while: 5 attempts, 5 to 20 seconds apart.
retry() {
  local attempt
  for attempt in 1 2 3 4; do
    if "$@"; then return 0; fi
    log "attempt $attempt of 5 failed: $1 ${2:-} ${3:-}"
    sleep $((attempt * 5))
  done
  "$@"
}

iot() {
  AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=5 aws iot "$@" \
    --region "$EDGEWRIGHT_REGION" --cli-connect-timeout 10 --cli-read-timeout 30
}

# Everything printed goes to the journal and, as usual for user data, to the console.
open_journal() {
  exec 3>&2
  exec > >(exec logger --stderr --tag "$TAG" 2>&3) 2>&1
  journal_pid=$!
}

take_certificate_back() {
  local id="${certificate_arn##*/}" left=""
  log "deleting certificate $id, which this run made"
  systemctl disable --now "$SERVICE" || true
  iot detach-thing-principal --thing-name "$EDGEWRIGHT_THING_NAME" --principal "$certificate_arn" || true
  iot detach-policy --policy-name "$EDGEWRIGHT_IOT_POLICY" --target "$certificate_arn" || true
  iot update-certificate --certificate-id "$id" --new-status INACTIVE || left=1
  retry iot delete-certificate --certificate-id "$id" --force-delete || left=1
  rm -f "$ROOT/device.pem.crt" "$ROOT/private.pem.key" "$ROOT/certificate.arn" "$ROOT/config.yaml"
  if [[ -n "$left" ]]; then log "certificate $id could not be deleted: delete it by hand"; fi
}

finish() {
  local status=$?
  trap - EXIT INT TERM HUP
  set +e
  if ((status != 0)) && [[ -n "$certificate_arn" ]]; then take_certificate_back; fi
  [[ -n "$scratch" ]] && rm -rf "$scratch"
  if ((status == 0)); then
    log "success: $EDGEWRIGHT_THING_NAME is a core device"
    signal SUCCESS "$EDGEWRIGHT_THING_NAME is a core device"
  else
    log "failure: could not $doing"
    status=1
    signal FAILURE "could not $doing${cause:+: $cause}; see journalctl -t $TAG on the instance"
  fi
  exec >&- 2>&-
  wait "$journal_pid"
  exit "$status"
}

# Tell CloudFormation, which waits for this. $1 SUCCESS or FAILURE, $2 the reason.
signal() {
  local reason="${2//[\"\\]/}"
  if [[ -n "$signalled" || -z "${EDGEWRIGHT_SIGNAL_URL:-}" ]]; then return; fi
  printf '{"Status": "%s", "Reason": "%s", "UniqueId": "%s", "Data": ""}' \
    "$1" "${reason:0:1000}" "${EDGEWRIGHT_THING_NAME:-unknown}" |
    curl --fail --silent --show-error --request PUT --header 'Content-Type:' --data-binary @- --connect-timeout 10 \
      --max-time 30 --retry 5 --retry-all-errors --retry-max-time 120 "$EDGEWRIGHT_SIGNAL_URL" ||
    log "the outcome could not be sent to CloudFormation, which waits until its time is over"
}

check_settings() {
  local key missing=()
  for key in REGION STAGE THING_NAME THING_GROUP IOT_POLICY ROLE_ALIAS ARTIFACT_BUCKET NUCLEUS_URL NUCLEUS_SHA256 \
    PYTHON SIGNAL_URL; do
    key="EDGEWRIGHT_$key"
    if [[ -z "${!key:-}" ]]; then missing+=("$key"); fi
  done
  if ((${#missing[@]})); then fail "every setting must be exported before this script, got nothing for: ${missing[*]}"; fi
  if [[ ! "$EDGEWRIGHT_NUCLEUS_SHA256" =~ ^[0-9a-f]{64}$ ]]; then
    fail "EDGEWRIGHT_NUCLEUS_SHA256 must be 64 lower-case hexadecimal digits, got $EDGEWRIGHT_NUCLEUS_SHA256"
  fi
}

download_nucleus() {
  local zip="$scratch/nucleus.zip" actual
  curl --fail --silent --show-error --location --proto '=https' --tlsv1.2 --connect-timeout 10 --max-time 300 \
    --retry 5 --retry-all-errors --retry-max-time 600 --output "$zip" "$EDGEWRIGHT_NUCLEUS_URL"
  actual="$(sha256sum "$zip")"
  actual="${actual%% *}"
  if [[ "$actual" != "$EDGEWRIGHT_NUCLEUS_SHA256" ]]; then
    fail "sha-256 of $EDGEWRIGHT_NUCLEUS_URL must be $EDGEWRIGHT_NUCLEUS_SHA256, got $actual"
  fi
  unzip -q -o "$zip" -d "$scratch/nucleus"
}

# Take one certificate authority out of the system's trust store: found by digest, whatever the store calls it.
write_root_ca() {
  local pem="" line digest
  while IFS= read -r line; do
    case "$line" in
      "-----BEGIN CERTIFICATE-----") pem="" ;;
      "-----END CERTIFICATE-----")
        digest="$(base64 --decode <<<"$pem" | sha256sum)"
        if [[ "${digest%% *}" == "$CA_SHA256" ]]; then
          printf -- '-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n' "${pem%$'\n'}" >"$ROOT/root_ca.pem"
          return
        fi
        pem=""
        ;;
      *) pem+="$line"$'\n' ;;
    esac
  done <"$CA_BUNDLE"
  fail "$CA_BUNDLE must hold Amazon Root CA 1 (sha-256 $CA_SHA256), got no such certificate"
}

make_identity() {
  if [[ -s "$ROOT/certificate.arn" && -s "$ROOT/device.pem.crt" && -s "$ROOT/private.pem.key" ]]; then return; fi
  certificate_arn="$(iot create-keys-and-certificate --set-as-active \
    --certificate-pem-outfile "$scratch/device.pem.crt" --private-key-outfile "$scratch/private.pem.key" \
    --query certificateArn --output text)"
  retry iot attach-policy --policy-name "$EDGEWRIGHT_IOT_POLICY" --target "$certificate_arn"
  retry iot attach-thing-principal --thing-name "$EDGEWRIGHT_THING_NAME" --principal "$certificate_arn"
  install -m 0600 "$scratch/device.pem.crt" "$scratch/private.pem.key" "$ROOT/"
  printf '%s\n' "$certificate_arn" >"$ROOT/certificate.arn"
}

wait_until_active() {
  local attempt
  for attempt in {1..30}; do
    if systemctl is-active --quiet "$SERVICE"; then return; fi
    sleep 2
  done
  fail "the service $SERVICE must be active within 60 seconds, it was not at attempt $attempt"
}

main() {
  local data_endpoint credential_endpoint
  doing="read the settings"
  check_settings
  if [[ -e "$ROOT/provisioned" ]]; then
    signalled=1
    doing="start the service again"
    systemctl start "$SERVICE"
    wait_until_active
    return
  fi
  doing="make the folder $ROOT"
  install -d -m 0755 "$ROOT"
  scratch="$(mktemp -d)"
  doing="install packages"
  install_packages
  doing="download the nucleus"
  download_nucleus
  doing="prepare the nucleus"
  prepare_nucleus
  doing="find Amazon Root CA 1"
  write_root_ca
  doing="look up the endpoints"
  data_endpoint="$(retry iot describe-endpoint --endpoint-type iot:Data-ATS --query endpointAddress --output text)"
  credential_endpoint="$(retry iot describe-endpoint --endpoint-type iot:CredentialProvider \
    --query endpointAddress --output text)"
  doing="make the certificate of $EDGEWRIGHT_THING_NAME"
  make_identity
  doing="put $EDGEWRIGHT_THING_NAME into the thing group $EDGEWRIGHT_THING_GROUP"
  retry iot add-thing-to-thing-group --thing-name "$EDGEWRIGHT_THING_NAME" --thing-group-name "$EDGEWRIGHT_THING_GROUP"
  doing="write $ROOT/config.yaml"
  write_config "$data_endpoint" "$credential_endpoint"
  doing="start the nucleus"
  start_nucleus
  wait_until_active
  doing="finish"
  touch "$ROOT/provisioned"
  certificate_arn=""
}

open_journal
trap finish EXIT
trap 'exit 1' INT TERM HUP
main
