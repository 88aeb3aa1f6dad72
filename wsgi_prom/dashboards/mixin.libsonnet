// The dashboards and rules as a Prometheus mixin, such as kube-prometheus takes: docs/dashboards.md.
//
// Objectives of your own: `wsgi-prom rules --slo ... --out rules.yaml`, and rules: importstr 'rules.yaml'.
{
  local config = $._config,

  _config+:: {
    selector: 'job=~".+"',
    // WSGI_PROM_PREFIX of the servers.
    prefix: '',
    // Where docs/ can be read.
    docs: 'docs/',
    rules: importstr 'rules.yaml',
  },

  local rules = std.parseYaml(
    std.strReplace(
      std.strReplace(
        // Before the selector, which may have such a name too.
        std.strReplace(config.rules, 'http_', config.prefix + 'http_'),
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
      variable { query: std.strReplace(super.query, 'job=~".+"', config.selector) }
    else if variable.name == 'prefix' && config.prefix != '' then
      variable {
        query: config.prefix,
        current: { selected: true, text: config.prefix, value: config.prefix },
      }
    else variable,

  local dashboard(page) = page { templating+: { list: [chosen(variable) for variable in super.list] } },

  grafanaDashboards+:: {
    'wsgi-prom-server.json': dashboard(import 'server.json'),
    'wsgi-prom-application.json': dashboard(import 'application.json'),
    'wsgi-prom-fleet.json': dashboard(import 'fleet.json'),
    'wsgi-prom-uwsgi.json': dashboard(import 'uwsgi.json'),
  },
}
