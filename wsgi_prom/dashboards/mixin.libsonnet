// The dashboards and rules as a Prometheus mixin, such as kube-prometheus takes: docs/dashboards.md.
//
// Objectives of your own: `wsgi-prom rules --slo ... --out rules.yaml`, and rules: importstr 'rules.yaml'.
{
  local config = $._config,

  _config+:: {
    selector: 'job=~".+"',
    // WSGI_PROM_PREFIX of the servers.
    prefix: '',
    // WSGI_PROM_NAMES of the servers: prometheus or otel.
    names: 'prometheus',
    // Where docs/ can be read.
    docs: 'docs/',
    rules: importstr 'rules.yaml',
  },

  // What `names` calls metrics and labels otherwise: as in metrics.py.
  local otherNames = {
    prometheus: { metrics: {}, labels: {} },
    otel: {
      metrics: {
        http_request_duration_seconds: 'http_server_request_duration_seconds',
        http_requests_in_progress: 'http_server_active_requests',
        http_request_size_bytes: 'http_server_request_body_size_bytes',
        http_response_size_bytes: 'http_server_response_body_size_bytes',
      },
      labels: { method: 'http_request_method', route: 'http_route', status: 'http_response_status_code' },
    },
  },

  local replaced(text, others, around) = std.foldl(
    function(text, name) std.foldl(
      function(text, a) std.strReplace(text, a[0] + name + a[1], a[0] + others[name] + a[1]),
      around,
      text
    ),
    std.objectFields(others),
    text
  ),

  // An expression, or several, with the names of the servers. A label stands in matchers, by (...) and the like, and legends.
  local named(text) =
    local others =
      if std.objectHas(otherNames, config.names) then otherNames[config.names]
      else error 'names is one of ' + std.join(', ', std.objectFields(otherNames));
    replaced(
      replaced(text, others.metrics, [['', '']]),
      others.labels,
      [[before, after] for before in ['(', '{', ', '] for after in [',', ')', '}', '=', '!']]
    ),

  local rules = std.parseYaml(
    std.strReplace(
      std.strReplace(
        // Before the selector, which may have such a name too.
        named(std.strReplace(config.rules, 'http_', config.prefix + 'http_')),
        'job=~".+"',
        config.selector
      ),
      'runbook_url: docs/',
      'runbook_url: ' + config.docs
    )
  ),

  // The groups of rules that have *kind*, with those alone.
  local groups(kind) = [
    group { name: group.name + (if kind == 'record' then '.rules' else ''), rules: found }
    for group in rules.groups
    for found in [[rule for rule in group.rules if std.objectHas(rule, kind)]]
    if std.length(found) > 0
  ],

  prometheusAlerts+:: { groups+: groups('alert') },
  prometheusRules+:: { groups+: groups('record') },

  local chosen(variable) =
    if variable.type == 'query' then
      variable { query: std.strReplace(named(super.query), 'job=~".+"', config.selector) }
    else if variable.name == 'prefix' && config.prefix != '' then
      variable {
        query: config.prefix,
        current: { selected: true, text: config.prefix, value: config.prefix },
      }
    else variable,

  local target(found) = found { expr: named(super.expr), legendFormat: named(super.legendFormat) },

  local panel(found) =
    if std.objectHas(found, 'targets') then found { targets: std.map(target, super.targets) } else found,

  local dashboard(page) = page {
    panels: std.map(panel, super.panels),
    templating+: { list: [chosen(variable) for variable in super.list] },
  },

  grafanaDashboards+:: {
    'wsgi-prom-server.json': dashboard(import 'server.json'),
    'wsgi-prom-application.json': dashboard(import 'application.json'),
    'wsgi-prom-fleet.json': dashboard(import 'fleet.json'),
    'wsgi-prom-uwsgi.json': dashboard(import 'uwsgi.json'),
  },
}
