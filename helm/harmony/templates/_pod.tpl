{{/* What the controller's container is told, given and shown; kept out of deployment.yaml so that it reads as a pod. */}}

{{- define "harmony.args" -}}
{{- if .Values.api.enabled -}}
- serve
- --cluster
# The first key is made in the running pod; until then nobody is let in.
- --wait-for-key
{{- else }}
- controller
{{- end }}
{{- include "harmony.settings.args" . }}
{{- with .Values.controller.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "harmony.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
# Settings that `harmony doctor` and `harmony recommend` share with the controller: all three read them from here.
{{- include "harmony.settings.env" . }}
- {name: HARMONY_LEASE_NAMESPACE, value: {{ .Release.Namespace }}}
# The root file system is read-only: every library that caches does so in /tmp.
- {name: HOME, value: /tmp}
- {name: XDG_CACHE_HOME, value: /tmp/cache}
- {name: MPLCONFIGDIR, value: /tmp/matplotlib}
- {name: TORCHINDUCTOR_CACHE_DIR, value: /tmp/torchinductor}
- {name: TRITON_CACHE_DIR, value: /tmp/triton}
# One computing thread per pod: several on a busy node make a tick slower, not faster.
- {name: OMP_NUM_THREADS, value: "1"}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
{{- with .Values.controller.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "harmony.resources" -}}
{{- $resources := deepCopy .Values.controller.resources }}
{{- $gpu := .Values.controller.gpu }}
{{- if $gpu.enabled }}
{{- $asked := dict $gpu.resourceName ($gpu.count | toString) }}
{{- $_ := set $resources "requests" (merge (deepCopy $asked) (default dict $resources.requests)) }}
{{- $_ := set $resources "limits" (merge (deepCopy $asked) (default dict $resources.limits)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "harmony.volumeMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if include "harmony.sqlite" . }}
- {name: journal, mountPath: /var/lib/harmony}
{{- end }}
{{- if .Values.prometheus.existingSecret }}
- {name: prometheus-token, mountPath: /etc/harmony/prometheus-token, readOnly: true}
{{- end }}
{{- if .Values.prometheus.clientSecret }}
- {name: prometheus-client, mountPath: /etc/harmony/prometheus-client, readOnly: true}
{{- end }}
{{- if .Values.prometheus.existingConfigMap }}
- {name: prometheus-ca, mountPath: /etc/harmony/prometheus-ca, readOnly: true}
{{- end }}
{{- if and .Values.keda.enabled .Values.keda.tls.existingSecret }}
- {name: keda-tls, mountPath: /etc/harmony/keda-tls, readOnly: true}
{{- end }}
{{- with .Values.controller.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "harmony.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.controller.tmpSizeLimit }}}
{{- if include "harmony.sqlite" . }}
- name: journal
  {{- if .Values.api.journal.persistence.enabled }}
  persistentVolumeClaim: {claimName: {{ include "harmony.claimName" . }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.api.journal.persistence.size }}}
  {{- end }}
{{- end }}
{{- with .Values.prometheus }}
{{- if .existingSecret }}
- name: prometheus-token
  secret:
    secretName: {{ .existingSecret }}
    items:
      - {key: {{ .existingSecretKey | quote }}, path: token}
{{- end }}
{{- if .clientSecret }}
- name: prometheus-client
  secret: {secretName: {{ .clientSecret }}}
{{- end }}
{{- if .existingConfigMap }}
- name: prometheus-ca
  configMap:
    name: {{ .existingConfigMap }}
    items:
      - {key: {{ .existingConfigMapKey | quote }}, path: ca.crt}
{{- end }}
{{- end }}
{{- if and .Values.keda.enabled .Values.keda.tls.existingSecret }}
- name: keda-tls
  secret:
    secretName: {{ .Values.keda.tls.existingSecret }}
{{- end }}
{{- with .Values.controller.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
