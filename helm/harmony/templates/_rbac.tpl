{{/*
What the controller may do, rule by rule. "harmony.rules.served" goes to every watched namespace (or to the whole
cluster), "harmony.rules.cluster" is about objects that have no namespace, "harmony.rules.own" is for the release's own
namespace. A dry run gets no verb that writes, once no pod is left that writes.
*/}}

{{/*
Whether pods may write: "true" or nothing. An upgrade to a dry run applies roles before it replaces pods, and those of
before would be refused what they do meanwhile; so as long as such pods are in the cluster, their verbs stay.
*/}}
{{- define "harmony.writes" -}}
{{- if not .Values.controller.dryRun -}}
true
{{- else -}}
{{- $live := lookup "apps/v1" "Deployment" .Release.Namespace (printf "%s-controller" (include "harmony.fullname" .)) -}}
{{- $old := lt (int (dig "status" "updatedReplicas" 0 $live)) (int (dig "status" "replicas" 0 $live)) -}}
{{- range (dig "spec" "template" "spec" "containers" list $live) -}}
{{- range .env -}}
{{- if and (eq .name "HARMONY_DRY_RUN") (ne (dig "value" "" .) "true") -}}{{- $old = true -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if $old -}}true{{- end -}}
{{- end -}}
{{- end }}

{{- define "harmony.rules.served" -}}
{{- $writes := eq (include "harmony.writes" .) "true" -}}
- apiGroups: [autoscaling.harmony-autoscaler.io]
  resources: [gpuautoscalers]
  verbs: [get, list, watch]
{{- if $writes }}
- apiGroups: [autoscaling.harmony-autoscaler.io]
  resources: [gpuautoscalers/status]
  verbs: [get, patch, update]
{{- end }}
{{- range .Values.rbac.scaledRefKinds }}
- apiGroups: [{{ .apiGroup | quote }}]
  resources: {{ toJson .resources }}
  verbs: [get, list, watch]
- apiGroups: [{{ .apiGroup | quote }}]
  resources:
    {{- range .resources }}
    - {{ . }}/scale
    {{- end }}
  verbs: {{ ternary "[get, patch, update]" "[get]" $writes }}
{{- end }}
# Pods are read for start times; never written.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Other autoscalers are read to find out who already owns a target.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: {{ ternary "[get, list, watch, patch]" "[get, list, watch]" (and $writes .Values.rbac.floor) }}
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: {{ ternary "[get, list, watch, patch]" "[get, list, watch]" (and $writes .Values.rbac.keda) }}
{{- if $writes }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
{{- if and $writes .Values.rbac.capacityBuffers }}
- apiGroups: [autoscaling.x-k8s.io]
  resources: [capacitybuffers]
  verbs: [get, create, update, patch, delete]
{{- end }}
{{- end }}

{{- define "harmony.rules.cluster" -}}
# `harmony doctor` compares the installed CRDs with what this version expects.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [gpuautoscalers.autoscaling.harmony-autoscaler.io, scaledobjects.keda.sh]
  verbs: [get]
{{- if .Values.rbac.nodes }}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
{{- end }}
{{- end }}

{{- define "harmony.rules.own" -}}
# A create request carries no name that RBAC could check; everything else is bound to the one Lease.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "harmony.leaseName" . }}]
  verbs: [get, patch, update]
{{- end }}

{{/* Who gets the roles. */}}
{{- define "harmony.subjects" -}}
- kind: ServiceAccount
  name: {{ include "harmony.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
