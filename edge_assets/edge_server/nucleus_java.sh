# shellcheck shell=bash disable=SC2154
# What the classic nucleus needs wherever it runs. Comes before nucleus_classic.sh or nucleus_docker.sh.
ROOT="${EDGEWRIGHT_ROOT:-/greengrass/v2}"
export CA_BUNDLE="${EDGEWRIGHT_CA_BUNDLE:-/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem}"
version=""

# The command that prints the nucleus' version
read_version() {
  version="$("$@")"
  version="${version##*v}"
  if [[ ! "$version" =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]]; then fail "the nucleus must tell its version as vN.N.N, got $version"; fi
}

# $1 data endpoint, $2 credential endpoint
write_config() {
  cat >"$ROOT/config.yaml" <<END
---
system:
  certificateFilePath: "$ROOT/device.pem.crt"
  privateKeyPath: "$ROOT/private.pem.key"
  rootCaPath: "$ROOT/root_ca.pem"
  rootpath: "$ROOT"
  thingName: "$EDGEWRIGHT_THING_NAME"
services:
  aws.greengrass.Nucleus:
    componentType: "NUCLEUS"
    version: "$version"
    configuration:
      awsRegion: "$EDGEWRIGHT_REGION"
      iotRoleAlias: "$EDGEWRIGHT_ROLE_ALIAS"
      iotDataEndpoint: "$1"
      iotCredEndpoint: "$2"
END
}
