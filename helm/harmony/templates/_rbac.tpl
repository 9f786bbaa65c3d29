{{/*
What the controller may do, rule by rule. "harmony.rules.served" goes to every watched namespace (or to the whole
cluster), "harmony.rules.cluster" is about objects that have no namespace, "harmony.rules.own" is for the release's own
namespace. A dry run gets no verb that writes.
*/}}

{{- define "harmony.rules.served" -}}
{{- $writes := not .Values.controller.dryRun -}}
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
