{{/* Name of the chart, or what the user calls it. */}}
{{- define "harmony.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Prefix of every object's name; cut so that the longest suffix still fits into 63 characters. */}}
{{- define "harmony.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := include "harmony.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* Name of a cluster-scoped object: two releases of one name in two namespaces must not meet. */}}
{{- define "harmony.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "harmony.fullname" .) }}
{{- end }}

{{/* Selectors are immutable: these two labels never change between versions. */}}
{{- define "harmony.selectorLabels" -}}
app.kubernetes.io/name: {{ include "harmony.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "harmony.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "harmony.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: harmony
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "harmony.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "harmony.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "harmony.image" -}}
{{- $repository := printf "%s/%s" .Values.image.registry .Values.image.repository }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s%s" $repository (default .Chart.AppVersion .Values.image.tag) (ternary "-gpu" "" .Values.controller.gpu.enabled) }}
{{- end }}
{{- end }}

{{- define "harmony.leaseName" -}}
{{- default (printf "%s-controller" (include "harmony.fullname" .)) .Values.controller.leaderElection.leaseName }}
{{- end }}

{{/* Files of the pod that tell of Prometheus: mounted ones first; empty for none. */}}
{{- define "harmony.prometheusTokenFile" -}}
{{- ternary "/etc/harmony/prometheus-token/token" .Values.prometheus.tokenFile (ne .Values.prometheus.existingSecret "") }}
{{- end }}

{{- define "harmony.prometheusCaFile" -}}
{{- ternary "/etc/harmony/prometheus-ca/ca.crt" .Values.prometheus.caFile (ne .Values.prometheus.existingConfigMap "") }}
{{- end }}

{{- define "harmony.prometheusCertFile" -}}
{{- ternary "/etc/harmony/prometheus-client/tls.crt" .Values.prometheus.certFile (ne .Values.prometheus.clientSecret "") }}
{{- end }}

{{- define "harmony.prometheusKeyFile" -}}
{{- ternary "/etc/harmony/prometheus-client/tls.key" .Values.prometheus.keyFile (ne .Values.prometheus.clientSecret "") }}
{{- end }}

{{/* Files of the pod for KEDA's TLS; empty for none. */}}
{{- define "harmony.kedaCertFile" -}}
{{- if .Values.keda.tls.existingSecret }}/etc/harmony/keda-tls/tls.crt{{ end }}
{{- end }}

{{- define "harmony.kedaKeyFile" -}}
{{- if .Values.keda.tls.existingSecret }}/etc/harmony/keda-tls/tls.key{{ end }}
{{- end }}

{{- define "harmony.kedaCaFile" -}}
{{- if and .Values.keda.tls.existingSecret .Values.keda.tls.verifyClients }}/etc/harmony/keda-tls/ca.crt{{ end }}
{{- end }}

{{/* Whether the journal is a file: one process writes it, so there is one pod, and never two at a time. */}}
{{- define "harmony.sqlite" -}}
{{- if and .Values.api.enabled (not .Values.api.journal.existingSecret) }}yes{{ end }}
{{- end }}

{{/* Where the journal is, for the server and for `harmony keys`, `journal` and `explain` in its container. */}}
{{- define "harmony.journalSource" -}}
{{- if include "harmony.sqlite" . -}}
value: "sqlite:////var/lib/harmony/journal.db"
{{- else if .Values.api.enabled -}}
valueFrom: {secretKeyRef: {name: {{ .Values.api.journal.existingSecret }}, key: {{ .Values.api.journal.existingSecretKey | quote }}}}
{{- end }}
{{- end }}

{{- define "harmony.replicas" -}}
{{- if include "harmony.sqlite" . }}{{ min 1 (int .Values.controller.replicaCount) }}{{ else }}{{ .Values.controller.replicaCount }}{{ end }}
{{- end }}

{{- define "harmony.claimName" -}}
{{- default (printf "%s-journal" (include "harmony.fullname" .)) .Values.api.journal.persistence.existingClaim }}
{{- end }}

{{/* All groups whose tokens are accepted; empty where none are. */}}
{{- define "harmony.tokenGroups" -}}
{{- if .Values.api.enabled }}
{{- with .Values.api.tokenReview }}{{ concat .readGroups .operateGroups .adminGroups | uniq | join ", " }}{{ end }}
{{- end }}
{{- end }}

{{/* Whether tokens are reviewed; `harmony doctor` sees by it that this right is needed too. */}}
{{- define "harmony.tokenReview" -}}
{{- if include "harmony.tokenGroups" . }}true{{ end }}
{{- end }}

{{/* Choices that the schema cannot judge; each message says what would be accepted. */}}
{{- define "harmony.validate" -}}
{{- if and .Values.prometheus.tokenFile .Values.prometheus.existingSecret }}
{{- fail "prometheus.tokenFile and prometheus.existingSecret both name a token: give one of them" }}
{{- end }}
{{- if and (or .Values.prometheus.certFile .Values.prometheus.keyFile) .Values.prometheus.clientSecret }}
{{- fail "prometheus.certFile or keyFile and prometheus.clientSecret both name a client certificate: give one of them" }}
{{- end }}
{{- if and .Values.prometheus.keyFile (not .Values.prometheus.certFile) }}
{{- fail "prometheus.keyFile names a key without a certificate: give prometheus.certFile too" }}
{{- end }}
{{- if and .Values.prometheus.caFile .Values.prometheus.existingConfigMap }}
{{- fail "prometheus.caFile and prometheus.existingConfigMap both name a CA bundle: give one of them" }}
{{- end }}
{{- if and (gt (int .Values.controller.replicaCount) 1) (not .Values.controller.leaderElection.enabled) }}
{{- fail (printf "controller.replicaCount is %d without leader election, so %d controllers would write at once: set controller.leaderElection.enabled=true or controller.replicaCount=1" (int .Values.controller.replicaCount) (int .Values.controller.replicaCount)) }}
{{- end }}
{{- if .Values.api.enabled }}
{{- range .Values.controller.extraArgs }}
{{- if hasPrefix "--journal" . }}
{{- fail "controller.extraArgs gives --journal, which `harmony serve` reads as the address of a database: with api.enabled use api.journal" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
