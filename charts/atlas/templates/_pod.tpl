{{/* What the Pods of this chart have in common. */}}

{{/* Annotations of a Pod. In: root, own (more annotations), port and path of its metrics. */}}
{{- define "atlas.podAnnotations" -}}
{{- $scraped := and .root.Values.metrics.enabled (not .root.Values.serviceMonitor.enabled) -}}
{{- $metrics := dict "prometheus.io/scrape" "true" "prometheus.io/port" .port "prometheus.io/path" .path -}}
{{- with merge (dict) (.own | default dict) (ternary $metrics dict $scraped) -}}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Security, scheduling, grace. In: root, values (priorityClassName, nodeSelector, tolerations, affinity), labels (text). */}}
{{- define "atlas.podSpec" -}}
enableServiceLinks: false
{{- with include "atlas.imagePullSecrets" .root }}
{{ . }}
{{- end }}
{{- with .root.Values.podSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.terminationGracePeriodSeconds }}
terminationGracePeriodSeconds: {{ . }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $labels := .labels }}
{{- with .root.Values.topologySpreadConstraints }}
topologySpreadConstraints:
{{- range . }}
- {{ toYaml . | nindent 2 | trim }}
  {{- if not .labelSelector }}
  labelSelector:
    matchLabels: {{- $labels | nindent 6 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A list of variables: NAME: value or NAME: {valueFrom: …}. */}}
{{- define "atlas.env" -}}
{{- range $name, $value := . }}
- name: {{ $name | upper | replace "." "_" }}
  {{- if kindIs "map" $value }}
  {{- toYaml $value | nindent 2 }}
  {{- else }}
  value: {{ $value | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* How many proxies in front of 10904 count: what somebody said, else the ingress of this chart. */}}
{{- define "atlas.trustedHops" -}}
{{- if kindIs "invalid" .Values.atlas.trustedHops }}{{ ternary 1 0 .Values.ingress.enabled }}{{ else }}{{ .Values.atlas.trustedHops }}{{ end -}}
{{- end -}}

{{/* How Atlas is told everything: its flags as variables. What is empty keeps Atlas's own default, and what the value `env` says is
left to it: Kubernetes takes no name twice by server-side apply. In: root, env. */}}
{{- define "atlas.settings" -}}
{{- $said := dict -}}
{{- range $name, $_ := .env }}{{ $_ := set $said ($name | upper | replace "." "_") true }}{{ end -}}
{{- with .root -}}
{{- $fullname := include "atlas.fullname" . -}}
{{- $settings := dict
  "ATLAS_NAMESPACE" .Release.Namespace
  "ATLAS_SERVICE_ACCOUNT" (include "atlas.serviceAccount" .)
  "ATLAS_LEASE_NAME" .Values.atlas.leaseName
  "ATLAS_ATLAS_ADDRESS" (printf "%s.%s.svc.%s" $fullname .Release.Namespace .Values.clusterDomain)
  "ATLAS_ENVOY_SELECTORS" (include "atlas.envoyPodSelectorLabels" . | replace ": " "=" | replace "\n" ",")
  "ATLAS_HUB_ADDRESS" (.Values.atlas.hubAddress | default .Values.controller.envoy.host)
  "ATLAS_HUB_XDS_ADDRESS" (.Values.atlas.hubXdsAddress | default .Values.envoyads.host)
  "ATLAS_HUB_XDS_PORT" .Values.atlas.hubXdsPort
  "ATLAS_HUB_ALERTS_ADDRESS" .Values.atlas.hubAlertsAddress
  "ATLAS_MAX_REQUEST_DURATION" .Values.atlas.maxRequestDuration
  "ATLAS_TRUSTED_HOPS" (include "atlas.trustedHops" . | int)
  "ATLAS_WEB_URL" .Values.atlas.webUrl
  "ATLAS_WEB_PASS_HEADERS" (join "," .Values.atlas.webPassHeaders)
  "ATLAS_WEB_PASS_COOKIES" (join "," .Values.atlas.webPassCookies)
  "ATLAS_HUB_ENVOY_MEMORY" (dig "limits" "memory" "" (.Values.envoy.resources | default dict))
  "ATLAS_BIND_ADDRESS" .Values.atlas.bindAddress
  "ATLAS_LISTEN_ADDRESS" .Values.atlas.listenAddress
  "ATLAS_CLUSTER_DOMAIN" .Values.clusterDomain
  "ATLAS_DNS_ZONE" .Values.atlas.dnsZone
  "ATLAS_TRUST_DOMAIN" .Values.atlas.trustDomain
  "ATLAS_DOWNSTREAM_NAMESPACE" .Values.atlas.downstreamNamespace
  "ATLAS_ALERTMANAGER_NAMESPACE" (include "atlas.alertmanagerNamespace" .)
  "ATLAS_ALERTMANAGER_SELECTOR" .Values.atlas.alertmanagerSelector
  "ATLAS_ALERTMANAGER_ENDPOINTS" .Values.atlas.alertmanagerEndpoints
  "ATLAS_ALERTMANAGER_PATH_PREFIX" .Values.atlas.alertmanagerPathPrefix
  "ATLAS_LOG_LEVEL" .Values.atlas.logLevel
  "ATLAS_LOG_FORMAT" .Values.atlas.logFormat
-}}
{{- range $name, $value := $settings }}
{{- if and $value (not (hasKey $said $name)) }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Host ports of the hub's Envoy by name, with 0.3's names for them. */}}
{{- define "atlas.envoyHostPorts" -}}
{{- $ports := .Values.envoy.ports | default dict -}}
{{- $found := dict -}}
{{- range $name, $old := dict "xds" "ads" "stores" "thanos" "alerts" "alertmanagers" "web" "prometheus" }}
{{- $given := get $ports $name | default dict -}}
{{- if not (hasKey $given "hostPort") }}{{ $given = get $ports $old | default dict }}{{ end -}}
{{- if $given.hostPort }}{{ $_ := set $found $name (pick $given "hostPort" "hostIP") }}{{ end -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}
