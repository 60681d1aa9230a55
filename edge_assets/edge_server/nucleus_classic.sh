# shellcheck shell=bash disable=SC2154
# The classic nucleus, on Java, as a system service of Amazon Linux 2023. Comes before user_data.sh, see there.
ROOT="${EDGEWRIGHT_ROOT:-/greengrass/v2}"
export CA_BUNDLE="${EDGEWRIGHT_CA_BUNDLE:-/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem}"
export SERVICE=greengrass
PACKAGES=(java-17-amazon-corretto-headless python3.11 unzip)
version=""

install_packages() {
  if rpm --query --quiet "${PACKAGES[@]}"; then return; fi
  retry dnf install --assumeyes --quiet "${PACKAGES[@]}"
}

prepare_nucleus() {
  version="$(java -jar "$scratch/nucleus/lib/Greengrass.jar" --version)"
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

start_nucleus() {
  java -Droot="$ROOT" -Dlog.store=FILE -jar "$scratch/nucleus/lib/Greengrass.jar" \
    --init-config "$ROOT/config.yaml" --component-default-user ggc_user:ggc_group --setup-system-service true
}
