{{/* The chart's name; with nameOverride, that. It is the pod label `app`, as in 0.3. */}}
{{- define "envoy.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of the objects. 56 characters leave room for what some have behind it ("-alerts"). */}}
{{- define "envoy.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 56 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "envoy.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 56 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The Service with 11903: the one that Prometheus is told of. */}}
{{- define "envoy.alertsService" -}}
{{- printf "%s-alerts" (include "envoy.fullname" .) -}}
{{- end -}}

{{/* The Secret with the six files. */}}
{{- define "envoy.secret" -}}
{{- .Values.existingSecret | default (include "envoy.fullname" .) -}}
{{- end -}}

{{/* Labels by which the Deployment finds its Pods: those of 0.3, since a Deployment's can't change. */}}
{{- define "envoy.selectorLabels" -}}
app: {{ include "envoy.name" . }}
release: {{ .Release.Name }}
{{- end -}}

{{/* Labels by which everything else finds them. With the name, for a parent chart may have both our charts in one release, and the
Pods of the hub's Envoy have the two labels above as well. */}}
{{- define "envoy.podSelectorLabels" -}}
{{ include "envoy.selectorLabels" . }}
app.kubernetes.io/name: {{ include "envoy.name" . }}
{{- end -}}

{{/* Labels of Pods: without versions, so that another version of the chart alone restarts nothing. */}}
{{- define "envoy.podLabels" -}}
{{- $selector := include "envoy.podSelectorLabels" . | fromYaml -}}
{{- $own := dict
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/part-of" "atlas"
-}}
{{- merge (dict) $selector (.Values.podLabels | default dict) $own | toYaml -}}
{{- end -}}

{{/* Labels of every object. In: root, own (labels of this object, which win: `release` means something to others too), scrapedBy
(the ServiceMonitor of this Service). That one is Atlas's own, since tools write the others on top of what a chart says: Argo CD
app.kubernetes.io/instance, Flux's commonMetadata and kustomize whatever they are told. */}}
{{- define "envoy.labels" -}}
{{- $scraped := ternary (dict "goatlas.io/scraped-by" .scrapedBy) dict (hasKey . "scrapedBy") -}}
{{- $selector := include "envoy.selectorLabels" .root | fromYaml -}}
{{- $standard := dict
  "app.kubernetes.io/name" (include "envoy.name" .root)
  "app.kubernetes.io/instance" .root.Release.Name
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service
  "app.kubernetes.io/part-of" "atlas"
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
-}}
{{- merge (dict) $scraped (.own | default dict) $selector $standard (.root.Values.commonLabels | default dict) | toYaml -}}
{{- end -}}

{{/* registry/name:tag@digest. In: image, global. A registry in the name is one where it has a dot or a port, as Docker reads it. */}}
{{- define "envoy.image" -}}
{{- $parts := splitList "/" .image.repository -}}
{{- $first := first $parts -}}
{{- $named := and (gt (len $parts) 1) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}
{{- $registry := coalesce .image.registry (.global | default dict).imageRegistry (ternary $first "" $named) | default "" -}}
{{- $name := ternary (join "/" (rest $parts)) .image.repository $named -}}
{{- with $registry }}{{ . }}/{{ end }}{{ $name }}:{{ .image.tag }}{{ with .image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{- define "envoy.imagePullSecrets" -}}
{{- $all := concat (.Values.imagePullSecrets | default list) ((.Values.global | default dict).imagePullSecrets | default list) -}}
{{- with .Values.image.pullSecret }}{{ $all = prepend $all . }}{{ end -}}
{{- with $all -}}
imagePullSecrets:
{{- range . }}
- name: {{ if kindIs "map" . }}{{ .name }}{{ else }}{{ . }}{{ end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Host port of 11901 (0.3: ports.thanos) and of 11903 (0.3: ports.alertmanager), each with its hostIP. */}}
{{- define "envoy.hostPorts" -}}
{{- $ports := .Values.ports | default dict -}}
{{- $found := dict -}}
{{- range $name, $old := dict "hub" "thanos" "alerts" "alertmanager" }}
{{- $given := get $ports $name | default dict -}}
{{- if not (hasKey $given "hostPort") }}{{ $given = get $ports $old | default dict }}{{ end -}}
{{- if $given.hostPort }}{{ $_ := set $found $name (pick $given "hostPort" "hostIP") }}{{ end -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}

{{/* What Prometheus is told: the same for every cluster, and however many Alertmanagers the hub has. */}}
{{- define "envoy.alertmanagerConfigs" -}}
- api_version: v2
  http_sd_configs:
  - url: http://{{ include "envoy.alertsService" . }}.{{ .Release.Namespace }}.svc:11903/alertmanagers
  relabel_configs:
  - source_labels: [atlas_alerts_path]
    target_label: __alerts_path__
{{- end -}}

{{/* Values of 0.3 that are let in and do nothing, one a line. */}}
{{- define "envoy.withoutEffect" -}}
{{- range $key := list "admin" "prometheus" }}
{{- if hasKey ($.Values.ports | default dict) $key }}
- ports.{{ $key }}: {{ ternary "the admin page is on loopback only" "11904 is gone; web UIs come through 11901" (eq $key "admin") }}
{{- end }}
{{- end }}
{{- end -}}
