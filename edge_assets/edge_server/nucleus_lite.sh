# shellcheck shell=bash disable=SC2154
# Nucleus lite, from its Debian package, on Ubuntu 24.04. Comes before user_data.sh, see there.
ROOT="${EDGEWRIGHT_ROOT:-/var/lib/greengrass}"
ETC="${EDGEWRIGHT_ETC:-/etc/greengrass}"
export CA_BUNDLE="${EDGEWRIGHT_CA_BUNDLE:-/etc/ssl/certs/ca-certificates.crt}"
export SERVICE=greengrass-lite.target
COMPONENTS=gg_component # the user of components
PACKAGES=(nftables openssl python3-venv unzip)

# The command line of AWS is no Debian package any more: the signed snap is AWS's own.
install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  if ! dpkg --status "${PACKAGES[@]}" >/dev/null 2>&1; then
    retry apt-get update --quiet
    retry apt-get install --yes --quiet "${PACKAGES[@]}"
  fi
  if ! command -v aws >/dev/null; then retry snap install aws-cli --classic; fi
}

prepare_nucleus() {
  local packages=("$scratch"/nucleus/aws-greengrass-lite-*-Linux.deb)
  if [[ ! -e "${packages[0]}" ]]; then fail "the download must hold aws-greengrass-lite-N.N.N-Linux.deb, it does not"; fi
  # apt's own user reads the package, and its dependencies come from the distribution, signed.
  chmod 0755 "$scratch" "$scratch/nucleus"
  retry apt-get install --yes --quiet "${packages[0]}"
  install -d -m 0755 -o ggcore -g ggcore "$ROOT"
}

# $1 data endpoint, $2 credential endpoint
write_config() {
  install -d -m 0755 "$ETC"
  chown ggcore:ggcore "$ROOT/device.pem.crt" "$ROOT/private.pem.key" "$ROOT/root_ca.pem"
  chmod 0600 "$ROOT/private.pem.key"
  chmod 0644 "$ROOT/root_ca.pem" # components trust S3 by it
  id "$COMPONENTS" >/dev/null 2>&1 || useradd --system --user-group --no-create-home "$COMPONENTS"
  # The package's own file is read after config.yaml: by it components would run as the owner of the private key.
  local file
  for file in "$ETC"/config.d/*.yaml; do
    if [[ -e $file ]]; then sed -i "s/ggcore:ggcore/$COMPONENTS:$COMPONENTS/" "$file"; fi
  done
  cat >"$ETC/config.yaml" <<END
---
system:
  privateKeyPath: "$ROOT/private.pem.key"
  certificateFilePath: "$ROOT/device.pem.crt"
  rootCaPath: "$ROOT/root_ca.pem"
  rootPath: "$ROOT"
  thingName: "$EDGEWRIGHT_THING_NAME"
services:
  aws.greengrass.NucleusLite:
    componentType: "NUCLEUS"
    configuration:
      awsRegion: "$EDGEWRIGHT_REGION"
      iotCredEndpoint: "$2"
      iotDataEndpoint: "$1"
      iotRoleAlias: "$EDGEWRIGHT_ROLE_ALIAS"
      greengrassDataPlanePort: "8443"
      runWithDefault:
        posixUser: "$COMPONENTS:$COMPONENTS"
END
}

start_nucleus() {
  systemctl enable "$SERVICE"
  systemctl restart "$SERVICE"
}
