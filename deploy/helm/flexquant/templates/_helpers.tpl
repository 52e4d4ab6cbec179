{{- define "flexquant.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "flexquant.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "flexquant.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "flexquant.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "flexquant.selector" -}}
app.kubernetes.io/name: {{ include "flexquant.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "flexquant.labels" -}}
{{ include "flexquant.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* (list $ repository) */}}
{{- define "flexquant.image" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end -}}
{{- $repository := index . 1 -}}
{{- if or (contains "@" $repository) (regexMatch ":[^/]+$" $repository) -}}
{{- $repository -}}
{{- else -}}
{{- $repository }}:{{ default $root.Chart.AppVersion $root.Values.image.tag -}}
{{- end -}}
{{- end -}}

{{/* Flags of a map. Whole numbers as such, not as 4e+06; true is a flag alone. */}}
{{- define "flexquant.flags" -}}
{{- range $name, $value := . }}
{{- if kindIs "bool" $value }}
{{- if $value }}
- {{ printf "--%s" $name | quote }}
{{- end }}
{{- else if and (kindIs "float64" $value) (eq (floor $value) $value) }}
- {{ printf "--%s=%d" $name (int64 $value) | quote }}
{{- else }}
- {{ printf "--%s=%v" $name $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "flexquant.modelSource" -}}
{{- if or .Values.model.source.files .Values.model.source.path }}yes{{ end -}}
{{- end -}}

{{- define "flexquant.modelFolder" -}}
/models/{{ .Values.model.path }}
{{- end -}}

{{- define "flexquant.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int64 .Values.podSecurity.user }}
runAsGroup: {{ int64 .Values.podSecurity.group }}
fsGroup: {{ int64 .Values.podSecurity.group }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "flexquant.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "flexquant.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What the conversion needs, in a Job or in an init container. */}}
{{- define "flexquant.convertContainer" -}}
image: {{ include "flexquant.image" (list . .Values.model.image) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [prepare_model, make, {{ include "flexquant.modelFolder" . | quote }}]
{{- with .Values.model.source.convertFlags }}
args:
  {{- toYaml . | nindent 2 }}
{{- end }}
env:
  - {name: MODEL_NAME, value: {{ default (base .Values.model.path) .Values.model.name | quote }}}
  {{- if .Values.model.source.path }}
  - {name: MODEL_PATH, value: {{ printf "/models/%s" .Values.model.source.path | quote }}}
  {{- else }}
  - {name: MODEL_SOURCES, value: /sources/sources.txt}
  {{- end }}
  {{- if .Values.model.source.tokenSecret.name }}
  - name: MODEL_TOKEN
    valueFrom:
      secretKeyRef: {name: {{ .Values.model.source.tokenSecret.name }}, key: {{ .Values.model.source.tokenSecret.key }}}
  {{- end }}
resources:
  {{- toYaml .Values.model.resources | nindent 2 }}
securityContext:
  {{- include "flexquant.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: models, mountPath: /models}
  - {name: tmp, mountPath: /tmp}
  {{- if .Values.model.source.files }}
  - {name: sources, mountPath: /sources, readOnly: true}
  {{- end }}
{{- end -}}

{{/* Init containers of a server, after which the package is there. */}}
{{- define "flexquant.initContainers" -}}
{{- if eq .Values.model.mode "ephemeral" }}
initContainers:
  - name: convert
    {{- include "flexquant.convertContainer" . | nindent 4 }}
{{- else if include "flexquant.modelSource" . }}
initContainers:
  - name: wait-for-model
    image: {{ include "flexquant.image" (list . .Values.model.image) }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command: [prepare_model, wait, {{ include "flexquant.modelFolder" . | quote }}]
    resources:
      requests: {cpu: 10m, memory: 64Mi}
      limits: {memory: 512Mi}
    securityContext:
      {{- include "flexquant.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: models, mountPath: /models, readOnly: true}
      - {name: tmp, mountPath: /tmp}
{{- end }}
{{- end -}}

{{- define "flexquant.claim" -}}
{{- default (printf "%s-model" (include "flexquant.fullname" .)) .Values.model.claim.existing -}}
{{- end -}}

{{/* Volumes of a server but its Secrets. */}}
{{- define "flexquant.modelVolumes" -}}
- name: models
  {{- if eq .Values.model.mode "ephemeral" }}
  emptyDir: {sizeLimit: {{ .Values.model.ephemeralSize }}}
  {{- else }}
  persistentVolumeClaim: {claimName: {{ include "flexquant.claim" . }}}
  {{- end }}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
{{- if and (eq .Values.model.mode "ephemeral") .Values.model.source.files }}
- name: sources
  configMap: {name: {{ include "flexquant.fullname" . }}-sources}
{{- end }}
{{- end -}}

{{- define "flexquant.controllerSecret" -}}
{{- default (printf "%s-controller-tls" (include "flexquant.fullname" .)) .Values.tls.controller.existingSecret -}}
{{- end -}}

{{- define "flexquant.executorSecret" -}}
{{- default (printf "%s-executor-tls" (include "flexquant.fullname" .)) .Values.tls.executor.existingSecret -}}
{{- end -}}

{{- define "flexquant.tokensSecret" -}}
{{- if .Values.tokens.existingSecret }}{{ .Values.tokens.existingSecret }}
{{- else if .Values.tokens.entries }}{{ include "flexquant.fullname" . }}-tokens{{ end -}}
{{- end -}}

{{/* (list $ values-of-the-server service): how to ask. The kubelet's gRPC probes speak no TLS and have no certificate:
then they ask the port that answers nothing but health. */}}
{{- define "flexquant.probe" -}}
{{- $server := index . 1 -}}
{{- $port := ternary $server.healthPort $server.port (index . 0).Values.tls.enabled -}}
grpc: {port: {{ $port | int }}, service: {{ index . 2 }}}
{{- end -}}

{{/* (list $ values-of-the-server readiness-name startup-seconds) */}}
{{- define "flexquant.probes" -}}
{{- $root := index . 0 -}}
{{- $server := index . 1 -}}
# Loading may take its time; only then the others ask.
startupProbe:
  {{- include "flexquant.probe" (list $root $server "liveness") | trim | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (add (index . 3 | int) 4) 5 }}
# "liveness" stays SERVING while the program drains or waits for executors: that is no reason to kill it.
livenessProbe:
  {{- include "flexquant.probe" (list $root $server "liveness") | trim | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
readinessProbe:
  {{- include "flexquant.probe" (list $root $server (index . 2)) | trim | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}

{{/* (list $ labels): spread over machines and zones as far as that goes. */}}
{{- define "flexquant.spread" -}}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- index $ 1 | nindent 6 }}
{{- end }}
{{- end -}}

{{/* What cannot work, said before anything is made. */}}
{{- define "flexquant.check" -}}
{{- $source := include "flexquant.modelSource" . -}}
{{- if and (eq .Values.model.mode "claim") (not .Values.model.claim.existing) (not $source) -}}
{{- fail "no model: set model.claim.existing (a claim that has the package), or model.source.files or .path (what to convert)" -}}
{{- end -}}
{{- if and (eq .Values.model.mode "ephemeral") (not .Values.model.source.files) -}}
{{- fail "model.mode ephemeral needs model.source.files: every pod fetches them" -}}
{{- end -}}
{{- if and (eq .Values.model.mode "ephemeral") (has "--calibrate" .Values.model.source.convertFlags) -}}
{{- fail "model.mode ephemeral does not go with --calibrate: two kinds of processors would make different packages, and controllers refuse executors with another one; use mode claim" -}}
{{- end -}}
{{- if .Values.tls.enabled -}}
{{- range $name := list "controller" "executor" -}}
{{- $tls := index $.Values.tls $name -}}
{{- if not (or $.Values.tls.certManager.enabled $tls.existingSecret (and $tls.crt $tls.key $tls.ca)) -}}
{{- fail (printf "tls.enabled needs tls.%s.existingSecret, or its crt, key and ca, or tls.certManager" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuer.name) -}}
{{- fail "tls.certManager needs issuer.name" -}}
{{- end -}}
{{- else if or .Values.tls.userCa.secret .Values.tls.certManager.enabled -}}
{{- fail "tls.userCa and tls.certManager need tls.enabled" -}}
{{- end -}}
{{- if gt (int .Values.executor.autoscaling.minReplicas) (int .Values.executor.autoscaling.maxReplicas) -}}
{{- fail "executor.autoscaling.minReplicas is more than maxReplicas" -}}
{{- end -}}
{{- end -}}
