#!/usr/bin/env bash
# Renders the chart's examples as kustomize overlays, for `kubectl apply -k deploy/kustomize/NAME`. Run it after a
# change of the chart: the tests compare.
#   deploy/kustomize/render.sh [FOLDER]      default: this folder
# HELM: the program; default: helm.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
chart=$here/../helm/flexquant
target=${1:-$here}

for values in "$chart"/examples/*.yaml; do
  name=$(basename "$values" .yaml)
  mkdir -p "$target/$name"
  "${HELM:-helm}" template flexquant "$chart" --namespace flexquant --values "$values" --skip-tests \
    --kube-version 1.30.0 >"$target/$name/rendered.yaml"
  cat >"$target/$name/kustomization.yaml" <<'KUSTOMIZATION'
# Made by deploy/kustomize/render.sh of the chart's example of this name: change that, or add patches in an overlay.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: flexquant
resources:
  - namespace.yaml
  - rendered.yaml
KUSTOMIZATION
  cat >"$target/$name/namespace.yaml" <<'NAMESPACE'
apiVersion: v1
kind: Namespace
metadata:
  name: flexquant
  labels:
    pod-security.kubernetes.io/enforce: restricted
NAMESPACE
done
