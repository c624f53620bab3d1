{{- define "concmon.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "concmon.selector" -}}
app.kubernetes.io/name: concmon-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "concmon.labels" -}}
{{ include "concmon.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
