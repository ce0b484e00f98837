{{- define "mom.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "mom.operator" -}}
{{- if contains "mom" .Release.Name -}}
{{ printf "%s-operator" (include "mom.name" .) }}
{{- else -}}
{{ printf "%s-mom-operator" (include "mom.name" .) | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "mom.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "mom.operator" .) .Values.serviceAccount.name }}
{{- else -}}
{{ required "serviceAccount.name must be set when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "mom.selector" -}}
app.kubernetes.io/name: mom-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mom.selectorText" -}}
app.kubernetes.io/name=mom-operator,app.kubernetes.io/instance={{ .Release.Name }}
{{- end -}}

{{- define "mom.labels" -}}
{{ include "mom.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: mom
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Labels of what is not the operator itself, so that no selector of its pods finds them. */}}
{{- define "mom.hookLabels" -}}
app.kubernetes.io/name: mom-hook
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: mom
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "mom.image" -}}
{{- $repository := .Values.image.repository -}}
{{- $first := first (splitList "/" $repository) -}}
{{- $named := and (contains "/" $repository) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}
{{- if and .Values.global.imageRegistry (not $named) -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .Values.global.imageRegistry) $repository -}}
{{- end -}}
{{ printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end -}}

{{- define "mom.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "mom.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "mom.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What the operator may do with the objects of a namespace. */}}
{{- define "mom.rules" -}}
- apiGroups: [mom.dev]
  resources: [momclusters, momtopics, momqueues]
  verbs: [get, list, watch, patch]
- apiGroups: [mom.dev]
  resources: [momclusters/status, momtopics/status, momqueues/status]
  verbs: [patch]
- apiGroups: [mom.dev] # where the owner of an object may only be blocked by those who may
  resources: [momclusters/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [services, configmaps, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""] # by name only: it can't list or watch the Secrets of others
  resources: [secrets]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [""] # the volume of a Redis grows
  resources: [persistentvolumeclaims]
  verbs: [get, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [get, create, patch]
- apiGroups: [apps]
  resources: [statefulsets, deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [ingresses, networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, create, patch, delete]
{{- end -}}

{{- define "mom.uninstallHook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{- define "mom.installHook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
