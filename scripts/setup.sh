#!/usr/bin/env bash
# Prepare a Kubernetes namespace for InferenceFlow: the namespace itself, and the four Secrets that
# the manifests read, filled from .env. Nothing is changed without --apply; it may run any number
# of times, and a Secret that is as it should be stays untouched.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/setup.sh [--overlay dev|production] [--env-file FILE] [--apply]

  --overlay   which of k8s/overlays to prepare (default: dev)
  --env-file  where the settings are (default: .env; `inferenceflow init` writes one)
  --apply     do it; without this only say what would be done
TEXT
}

overlay=dev
env_file=.env
apply=false
while (($#)); do
  case $1 in
    --overlay) overlay=${2:?--overlay needs a name}; shift 2 ;;
    --env-file) env_file=${2:?--env-file needs a file}; shift 2 ;;
    --apply) apply=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "setup: $*" >&2
  exit 1
}

[[ -d k8s/overlays/$overlay ]] || fail "there is no k8s/overlays/$overlay"
[[ -r $env_file ]] || fail "$env_file cannot be read; write one with 'inferenceflow init'"
command -v kubectl >/dev/null || fail "kubectl is not installed"

declare -A settings=()
while IFS='=' read -r name value; do
  [[ $name =~ ^[A-Z][A-Z0-9_]*$ && -n $value ]] && settings[$name]=$value
done <"$env_file"

case $overlay in
  production)
    namespace=inferenceflow
    required=(
      JWT_SECRET_KEY REDIS_URL CACHE_REDIS_URL DATABASE_URL FILES_URL CE_BROKER_URL FLOWER_PASSWORD
    )
    [[ ${settings[FILES_URL]:-file:} != file:* ]] || settings[FILES_URL]=  # pods share no folder
    bucket=(FILES_URL AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_DEFAULT_REGION AWS_ENDPOINT_URL)
    ;;
  *)
    namespace=inferenceflow-$overlay
    required=(JWT_SECRET_KEY REDIS_PASSWORD DATABASE_URL FLOWER_PASSWORD)
    bucket=()  # a volume of the overlay's own
    ;;
esac
for name in "${required[@]}"; do
  [[ -n ${settings[$name]:-} ]] || fail "$env_file does not set $name (see docs/deployment.md)"
done
settings[FLOWER_BASIC_AUTH]=admin:${settings[FLOWER_PASSWORD]}

# The Secret's manifest on standard output. Values travel through pipes and files that only we can
# read, never through arguments, which every user of the machine can see.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
secret() {
  local secret_name=$1 name
  shift
  for name in "$@"; do
    [[ -n ${settings[$name]:-} ]] && printf '%s=%s\n' "$name" "${settings[$name]}"
  done >"$scratch/$secret_name" || true
  kubectl create secret generic "$secret_name" --namespace "$namespace" \
    --from-env-file "$scratch/$secret_name" --dry-run=client --output yaml
}

manifests() {
  cat "k8s/overlays/$overlay/namespace.yaml"
  echo ---
  secret inferenceflow-stores REDIS_URL REDIS_PASSWORD CACHE_REDIS_URL DATABASE_URL \
    "${bucket[@]}"
  echo ---
  secret inferenceflow-api JWT_SECRET_KEY JWT_PREVIOUS_KEYS
  echo ---
  secret inferenceflow-providers OPENAI_API_KEY ANTHROPIC_API_KEY GOOGLE_API_KEY COHERE_API_KEY \
    OPENAI_BASE_URL ANTHROPIC_BASE_URL GOOGLE_BASE_URL COHERE_BASE_URL LOCAL_API_KEY LOCAL_BASE_URL
  echo ---
  secret inferenceflow-tools FLOWER_BASIC_AUTH CE_BROKER_URL
}

if [[ $apply == true ]]; then
  echo "setup: context $(kubectl config current-context)"
  manifests | kubectl apply --filename -
else
  # Names and keys, never values.
  manifests | sed -E 's/^(  [A-Za-z0-9_]+:) [A-Za-z0-9+\/=]{4,}$/\1 .../'
  echo "setup: nothing was changed; run again with --apply" >&2
fi
