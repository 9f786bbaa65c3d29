{{/* Made of the settings by `make generated`: what the program is told of the values. By hand: _pod.tpl. */}}

{{- define "harmony.settings.args" -}}
{{- if .Values.api.enabled }}
- {{ printf "--address=:%v" .Values.api.port | quote }}
{{- range .Values.api.tokenReview.readGroups }}
- {{ printf "--read-group=%v" . | quote }}
{{- end }}
{{- range .Values.api.tokenReview.operateGroups }}
- {{ printf "--operate-group=%v" . | quote }}
{{- end }}
{{- range .Values.api.tokenReview.adminGroups }}
- {{ printf "--admin-group=%v" . | quote }}
{{- end }}
{{- range .Values.api.corsOrigins }}
- {{ printf "--cors-origin=%v" . | quote }}
{{- end }}
- {{ printf "--rate=%v" .Values.api.rateLimit | quote }}
- {{ printf "--retain-days=%v" .Values.api.journal.retainDays | quote }}
- {{ printf "--retain-inputs-days=%v" .Values.api.journal.retainInputsDays | quote }}
{{- end }}
- {{ printf "--interval=%v" .Values.controller.interval | quote }}
- {{ printf "--refresh=%v" .Values.controller.refresh | quote }}
- {{ printf "--gpu-budget=%v" .Values.controller.gpuBudget | quote }}
- {{ printf "--metrics-address=:%v" .Values.controller.ports.metrics | quote }}
- {{ printf "--health-address=:%v" .Values.controller.ports.health | quote }}
{{- if .Values.keda.enabled }}
- {{ printf "--keda-address=:%v" .Values.keda.port | quote }}
{{- with include "harmony.kedaCertFile" . }}
- {{ printf "--keda-tls-cert-file=%v" . | quote }}
{{- end }}
{{- with include "harmony.kedaKeyFile" . }}
- {{ printf "--keda-tls-key-file=%v" . | quote }}
{{- end }}
{{- with include "harmony.kedaCaFile" . }}
- {{ printf "--keda-tls-ca-file=%v" . | quote }}
{{- end }}
{{- end }}
- {{ printf "--log-format=%v" .Values.controller.logFormat | quote }}
- {{ printf "--log-level=%v" .Values.controller.logLevel | quote }}
{{- end }}

{{- define "harmony.settings.env" -}}
{{- with include "harmony.tokenReview" . }}
- {name: HARMONY_TOKEN_REVIEW, value: {{ . | quote }}}
{{- end }}
{{- with include "harmony.journalSource" . }}
- {name: HARMONY_JOURNAL_URL, {{ . }}}
{{- end }}
{{- with .Values.watch.namespaces }}
- {name: HARMONY_NAMESPACE, value: {{ join " " . | quote }}}
{{- end }}
{{- with .Values.watch.selector }}
- {name: HARMONY_SELECTOR, value: {{ . | quote }}}
{{- end }}
- {name: HARMONY_DRY_RUN, value: {{ .Values.controller.dryRun | quote }}}
- {name: HARMONY_LEADER_ELECT, value: {{ .Values.controller.leaderElection.enabled | quote }}}
{{- with include "harmony.leaseName" . }}
- {name: HARMONY_LEASE_NAME, value: {{ . | quote }}}
{{- end }}
- {name: HARMONY_FORECASTER, value: {{ .Values.controller.forecaster | quote }}}
{{- with .Values.prometheus.url }}
- {name: HARMONY_PROMETHEUS_URL, value: {{ . | quote }}}
{{- end }}
{{- with include "harmony.prometheusTokenFile" . }}
- {name: HARMONY_PROMETHEUS_TOKEN_FILE, value: {{ . | quote }}}
{{- end }}
{{- with include "harmony.prometheusCaFile" . }}
- {name: HARMONY_PROMETHEUS_CA_FILE, value: {{ . | quote }}}
{{- end }}
{{- with .Values.prometheus.queryParams }}
{{- $pairs := list }}
{{- range $key, $value := . }}{{ $pairs = append $pairs (printf "%s=%s" $key $value) }}{{ end }}
- {name: HARMONY_PROMETHEUS_QUERY_PARAM, value: {{ join " " $pairs | quote }}}
{{- end }}
{{- with .Values.prometheus.headers }}
{{- $pairs := list }}
{{- range $key, $value := . }}{{ $pairs = append $pairs (printf "%s=%s" $key $value) }}{{ end }}
- {name: HARMONY_PROMETHEUS_HEADER, value: {{ join " " $pairs | quote }}}
{{- end }}
{{- with include "harmony.prometheusCertFile" . }}
- {name: HARMONY_PROMETHEUS_CERT_FILE, value: {{ . | quote }}}
{{- end }}
{{- with include "harmony.prometheusKeyFile" . }}
- {name: HARMONY_PROMETHEUS_KEY_FILE, value: {{ . | quote }}}
{{- end }}
{{- with .Values.prometheus.proxy }}
- {name: HARMONY_PROMETHEUS_PROXY, value: {{ . | quote }}}
{{- end }}
{{- end }}
