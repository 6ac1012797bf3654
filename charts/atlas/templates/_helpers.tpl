{{/* The chart's name; with nameOverride, that. */}}
{{- define "atlas.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of the objects. 48 characters leave room for what some have behind it ("-envoy-internal"). */}}
{{- define "atlas.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "atlas.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "atlas.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "atlas.fullname" .) -}}
{{- end -}}

{{- define "atlas.alertmanagerNamespace" -}}
{{- .Values.atlas.alertmanagerNamespace | default .Release.Namespace -}}
{{- end -}}

{{/* The Deployments of Atlas itself, by component: one, or with split two. */}}
{{- define "atlas.components" -}}
{{- ternary "controller envoy-ads" "atlas" .Values.split -}}
{{- end -}}

{{/* The component that serves xDS, DNS and the page. */}}
{{- define "atlas.serving" -}}
{{- ternary "envoy-ads" "atlas" .Values.split -}}
{{- end -}}

{{/* Labels of every object. In: root, component, own (labels of this object, which win: `release` means something to others too),
scrapedBy (the ServiceMonitor of this Service). That one is Atlas's own, since tools write the others on top of what a chart says:
Argo CD app.kubernetes.io/instance, Flux's commonMetadata and kustomize whatever they are told. */}}
{{- define "atlas.labels" -}}
{{- $scraped := ternary (dict "goatlas.io/scraped-by" .scrapedBy) dict (hasKey . "scrapedBy") -}}
{{- $selector := include "atlas.selectorLabels" . | fromYaml -}}
{{- $standard := dict
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service
  "app.kubernetes.io/part-of" "atlas"
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
-}}
{{- merge (dict) $scraped (.own | default dict) $selector $standard (.root.Values.commonLabels | default dict) | toYaml -}}
{{- end -}}

{{/* Labels of Pods: without versions, so that another version of the chart alone restarts nothing. In: root, component, selector (text), own. */}}
{{- define "atlas.podLabels" -}}
{{- $selector := .selector | fromYaml -}}
{{- $standard := include "atlas.selectorLabels" . | fromYaml -}}
{{- merge (dict) $selector (.own | default dict) $standard (dict "app.kubernetes.io/part-of" "atlas") | toYaml -}}
{{- end -}}

{{/* Labels by which Pods are found. In: root, component. */}}
{{- define "atlas.selectorLabels" -}}
app.kubernetes.io/name: {{ include "atlas.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels by which the hub Envoy's Deployment finds its Pods: those of 0.3, since a Deployment's can't change. */}}
{{- define "atlas.envoySelectorLabels" -}}
app: envoy
release: {{ .Release.Name }}
{{- end -}}

{{/* Labels by which everything else finds them, also the stores' Services that Atlas writes. With the component, for a parent chart
may have both our charts in one release, and the Pods of charts/envoy have the two labels above as well. */}}
{{- define "atlas.envoyPodSelectorLabels" -}}
{{ include "atlas.envoySelectorLabels" . }}
app.kubernetes.io/component: envoy
{{- end -}}

{{/* registry/name:tag@digest. In: image, global, tag (the default). A registry in the name is one where it has a dot or a port, as Docker reads it. */}}
{{- define "atlas.image" -}}
{{- $parts := splitList "/" .image.repository -}}
{{- $first := first $parts -}}
{{- $named := and (gt (len $parts) 1) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}
{{- $registry := coalesce .image.registry (.global | default dict).imageRegistry (ternary $first "" $named) | default "" -}}
{{- $name := ternary (join "/" (rest $parts)) .image.repository $named -}}
{{- with $registry }}{{ . }}/{{ end }}{{ $name }}:{{ .image.tag | default .tag }}{{ with .image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{- define "atlas.imagePullSecrets" -}}
{{- $all := concat (.Values.imagePullSecrets | default list) ((.Values.global | default dict).imagePullSecrets | default list) -}}
{{- with .Values.image.pullSecret }}{{ $all = prepend $all . }}{{ end -}}
{{- with $all -}}
imagePullSecrets:
{{- range . }}
- name: {{ if kindIs "map" . }}{{ .name }}{{ else }}{{ . }}{{ end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Values of 0.3 that are let in and do nothing, one a line. */}}
{{- define "atlas.withoutEffect" -}}
{{- with .Values.controller.ports }}
- controller.ports: Atlas's ports are fixed
{{- end }}
{{- with .Values.envoyads.ingress }}
- envoyads.ingress: xDS needs none; clusters connect to 10900 of the hub's Envoy
{{- end }}
{{- if hasKey .Values.envoyads "enabled" }}
- envoyads.enabled: see split
{{- end }}
{{- if hasKey .Values.envoyads "metrics" }}
- envoyads.metrics: see metrics.enabled
{{- end }}
{{- with .Values.envoyads.envFromSecret }}
- envoyads.envFromSecret: see env, whose values may be {valueFrom: …}
{{- end }}
{{- if hasKey (.Values.envoy.ports | default dict) "admin" }}
- envoy.ports.admin: the admin page is on loopback only
{{- end }}
{{- end -}}
