#!/usr/bin/env bash
# Bring a Kubernetes namespace to what k8s/overlays says: migrate the database first, then apply, then
# wait until every Deployment is up. Nothing is changed without --apply; it may run any number of
# times. If a rollout fails it says so and leaves the old pods serving.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/deploy.sh [--overlay dev|production] [--tag TAG] [--registry PREFIX] [--apply]

  --overlay   which of k8s/overlays to deploy (default: dev)
  --tag       tag of our images (default: the one in k8s/base)
  --registry  where our images are, such as registry.example/team (default: none)
  --apply     do it; without this only show what would change
TEXT
}

overlay=dev
tag=
registry=
apply=false
while (($#)); do
  case $1 in
    --overlay) overlay=${2:?--overlay needs a name}; shift 2 ;;
    --tag) tag=${2:?--tag needs a tag}; shift 2 ;;
    --registry) registry=${2:?--registry needs a prefix}; shift 2 ;;
    --apply) apply=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "deploy: $*" >&2
  exit 1
}

[[ -d k8s/overlays/$overlay ]] || fail "there is no k8s/overlays/$overlay"
[[ -z $tag || $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] || fail "not a tag: $tag"
[[ -z $registry || $registry =~ ^[A-Za-z0-9][A-Za-z0-9./:_-]*$ ]] || fail "not a registry: $registry"
command -v kubectl >/dev/null || fail "kubectl is not installed"

namespace=inferenceflow
[[ $overlay == production ]] || namespace=inferenceflow-$overlay

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Our images get their place and tag in a copy: what is under version control stays as it is.
cp -R k8s "$scratch/k8s"
{
  echo "images:"
  for image in inferenceflow-api inferenceflow-worker inferenceflow-celery-exporter; do
    echo "  - name: $image"
    echo "    newName: ${registry:+$registry/}$image"
    [[ -z $tag ]] || echo "    newTag: \"$tag\""
  done
} >>"$scratch/k8s/overlays/$overlay/kustomization.yaml"
kubectl kustomize "$scratch/k8s/overlays/$overlay" >"$scratch/all.yaml"

if [[ $apply != true ]]; then
  cat "$scratch/all.yaml"
  echo "deploy: nothing was changed; run again with --apply" >&2
  exit 0
fi

label=app.kubernetes.io/name
in_namespace=(--namespace "$namespace")
applied() {
  kubectl apply --filename "$scratch/all.yaml" --selector "$1"
}

echo "deploy: context $(kubectl config current-context), namespace $namespace"
for name in stores api providers tools; do
  kubectl get secret "inferenceflow-$name" "${in_namespace[@]}" --output name >/dev/null ||
    fail "the Secret inferenceflow-$name is missing: scripts/setup.sh --overlay $overlay --apply"
done

# What pods lean on has no name label: settings, accounts, rights, policies.
applied "!$label"
if grep -q '^kind: StatefulSet$' "$scratch/all.yaml"; then
  applied "$label=redis"
  kubectl rollout status statefulset/redis "${in_namespace[@]}" --timeout 11m
fi
# The migration runs to its end before any new pod starts. A Job cannot be changed, so the one of
# the last deployment makes room.
kubectl delete job migrate "${in_namespace[@]}" --ignore-not-found
applied "$label=migrate"
kubectl wait job/migrate "${in_namespace[@]}" --for condition=complete --timeout 10m ||
  fail "the migration did not complete: kubectl logs job/migrate --namespace $namespace"
applied "$label,$label notin (migrate, redis)"
for name in api beat celery-exporter flower scaler system webhooks worker-high worker-normal worker-low; do
  kubectl rollout status "deployment/$name" "${in_namespace[@]}" --timeout 15m ||
    fail "$name is not up: kubectl rollout undo deployment/$name --namespace $namespace"
done
echo "deploy: done"
