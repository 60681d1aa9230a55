#!/bin/bash
# Makes a fresh instance a Greengrass core device (manual provisioning: no installer creates roles, aliases or
# policies). The lines before this text export, in single quotes:
#   EDGEWRIGHT_REGION, _STAGE, _THING_NAME, _JOIN_FUNCTION, _ROLE_ALIAS, _ARTIFACT_BUCKET
#   EDGEWRIGHT_NUCLEUS_URL, _NUCLEUS_SHA256    the nucleus' zip, pinned by its digest
#   EDGEWRIGHT_PYTHON                          of the wheels that will be installed, such as 3.12
#   EDGEWRIGHT_SIGNAL_URL                      where CloudFormation waits for the outcome (a signed address)
# and nucleus_lite.sh, or nucleus_java.sh with nucleus_classic.sh or nucleus_docker.sh, define ROOT, SERVICE,
# install_packages, prepare_nucleus, write_config and start_nucleus.
# Rights of the instance's role: lambda:InvokeFunction on the join function, which signs for this thing and no other, and
# what Session Manager needs. Only root reaches the role.
# Safe to run again: what is done is not done twice, and a certificate made by a run that fails is deleted again.
# Last line in the journal (journalctl -t edgewright-edge-server): "success: …" or "failure: …"; exit code 0 or 1.
# The same text goes to CloudFormation, whose deploy fails with it.
set -euo pipefail

# SHA-256 of the DER form of "Amazon Root CA 1", which signs every endpoint a core device talks to.
CA_SHA256="8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e"
TAG=edgewright-edge-server

certificate=""     # id of one that this run got, until the run has succeeded
doing="start"      # for the last line
cause=""           # of the failure, where this script knows it
signalled=""       # an instance that starts again has told its outcome
scratch=""         # only root can read it: the private key is there for a moment
journal_pid=""
UNITS="${EDGEWRIGHT_UNITS:-/etc/systemd/system}"

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

# $1 a file with the request; the answer is in $scratch/answer.json.
call_join_function() {
  local refused
  refused="$(AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=5 aws lambda invoke --function-name "$EDGEWRIGHT_JOIN_FUNCTION" \
    --payload "fileb://$1" --query FunctionError --output text --region "$EDGEWRIGHT_REGION" \
    --cli-connect-timeout 10 --cli-read-timeout 70 "$scratch/answer.json")" || return
  if [[ "$refused" != None ]]; then
    cause="$(member "$scratch/answer.json" errorMessage)"
    log "$EDGEWRIGHT_JOIN_FUNCTION refuses: $cause"
    return 1
  fi
  cause=""
}

# $1 a JSON file, $2 a key of its object
member() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]], end="")' "$1" "$2"; }

# Everything printed goes to the journal and, as usual for user data, to the console.
open_journal() {
  exec 3>&2
  exec > >(exec logger --stderr --tag "$TAG" 2>&3) 2>&1
  journal_pid=$!
}

take_certificate_back() {
  local why="$cause"
  log "giving certificate $certificate back, which this run got"
  systemctl disable --now "$SERVICE" || true
  printf '{"leave": "%s"}' "$certificate" >"$scratch/leave.json"
  retry call_join_function "$scratch/leave.json" || log "certificate $certificate is left: the next server takes it away"
  cause="$why"
  rm -f "$ROOT/device.pem.crt" "$ROOT/private.pem.key" "$ROOT/joined.json" "$ROOT/config.yaml"
}

finish() {
  local status=$?
  trap - EXIT INT TERM HUP
  set +e
  if ((status != 0)) && [[ -n "$certificate" ]]; then take_certificate_back; fi
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
  for key in REGION STAGE THING_NAME JOIN_FUNCTION ROLE_ALIAS ARTIFACT_BUCKET NUCLEUS_URL NUCLEUS_SHA256 PYTHON \
    SIGNAL_URL; do
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

# The key is made here and never leaves the machine.
make_identity() {
  local csr
  if [[ -s "$ROOT/joined.json" && -s "$ROOT/device.pem.crt" && -s "$ROOT/private.pem.key" ]]; then return; fi
  openssl req -new -newkey rsa:2048 -nodes -subj "/CN=$EDGEWRIGHT_THING_NAME" \
    -keyout "$scratch/private.pem.key" -out "$scratch/request.pem" 2>/dev/null
  csr="$(cat "$scratch/request.pem")"
  printf '{"csr": "%s"}' "${csr//$'\n'/\\n}" >"$scratch/request.json"
  retry call_join_function "$scratch/request.json"
  certificate="$(member "$scratch/answer.json" certificateId)"
  member "$scratch/answer.json" certificatePem >"$scratch/device.pem.crt"
  install -m 0600 "$scratch/device.pem.crt" "$scratch/private.pem.key" "$ROOT/"
  install -m 0600 "$scratch/answer.json" "$ROOT/joined.json"
}

# Components run as other users than root; whoever reaches the metadata acts with the instance's role.
close_metadata() {
  cat >"$UNITS/edgewright-metadata.nft" <<'END'
table inet edgewright
delete table inet edgewright
table inet edgewright {
  chain output {
    type filter hook output priority 0; policy accept;
    ip daddr 169.254.169.254 meta skuid != 0 reject
    ip6 daddr fd00:ec2::254 meta skuid != 0 reject
  }
}
END
  cat >"$UNITS/edgewright-metadata.service" <<END
[Unit]
Description=Only root reaches the instance's metadata
DefaultDependencies=no
After=local-fs.target
Before=network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f $UNITS/edgewright-metadata.nft

[Install]
WantedBy=multi-user.target
END
  systemctl daemon-reload
  systemctl enable --now edgewright-metadata.service
  if runuser -u nobody -- curl --silent --max-time 3 --output /dev/null http://169.254.169.254/latest/meta-data/; then
    fail "only root must reach the instance's metadata, nobody does, too"
  fi
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
  doing="close the instance's metadata"
  close_metadata
  doing="get the certificate of $EDGEWRIGHT_THING_NAME"
  make_identity
  doing="write $ROOT/config.yaml"
  write_config "$(member "$ROOT/joined.json" dataEndpoint)" "$(member "$ROOT/joined.json" credentialEndpoint)"
  doing="start the nucleus"
  start_nucleus
  wait_until_active
  doing="finish"
  touch "$ROOT/provisioned"
  certificate=""
}

open_journal
trap finish EXIT
trap 'exit 1' INT TERM HUP
main
