"""
Panels and pages of Grafana, with what all of ours have in common.

1. In an expression, `@` stands for the selection of the variables job and instance, and metrics of requests get the prefix
   of the variable prefix.
2. Each panel says in its description what it shows, and what to make of it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from grafana_foundation_sdk.builders import bargauge, common, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import common as words
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from wsgi_prom.dashboards.naming import Naming
from wsgi_prom.dashboards.rules import SELECTOR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TAG: Final = "wsgi_prom"
_SELECTION: Final = 'job=~"$job", instance=~"$instance"'
_SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_ALL: Final = models.VariableOption(text=["All"], value=["$__all"], selected=True)
_GREEN, _YELLOW, _RED = "green", "yellow", "red"


class Query(NamedTuple):
    """An expression, and the name of each of its series: `{{label}}` is a label's value."""

    expression: str
    legend: str


def expanded(expression: str) -> str:
    """Return *expression* with the variables' selection and prefix."""
    return Naming("${prefix}").applied(expression.replace("@", _SELECTION))


def _target(query: Query, number: int = 0) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(expanded(query.expression)).legend_format(query.legend)
    return target.ref_id(chr(ord("A") + number)).datasource(_SOURCE)


def _steps(*limits: float, rising: bool = True) -> builders.ThresholdsConfig:
    """Return thresholds: green, then yellow and red from the limits on; of one limit red, and of none green."""
    colours = [_GREEN, *([_YELLOW] if len(limits) > 1 else []), *([_RED] if limits else [])]
    found = [
        models.Threshold(value=value, color=colour)
        for value, colour in zip((None, *limits), colours if rising else colours[::-1], strict=True)
    ]
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


def graph(
    title: str, about: str, *queries: Query, unit: str = "short", stacked: bool = False, bars: bool = False,
    limits: Sequence[float] = (), width: int = 12, least: float | None = 0, most: float | None = None,
) -> timeseries.Panel:  # fmt: skip
    """Return lines over time, or bars, from *least* to *most*. *limits* are lines at which it gets critical."""
    panel = (
        timeseries.Panel().title(title).description(about).datasource(_SOURCE).unit(unit).span(width).height(8)
        .line_width(1).fill_opacity(60 if bars else 25 if stacked else 5)
        .draw_style(words.GraphDrawStyle.BARS if bars else words.GraphDrawStyle.LINE)
        .legend(
            common.VizLegendOptions().display_mode(words.LegendDisplayMode.LIST)
            .placement(words.LegendPlacement.BOTTOM).show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions().mode(words.TooltipDisplayMode.MULTI).sort(words.SortOrder.DESCENDING)
        )
        .thresholds(_steps(*limits))
    )  # fmt: skip
    if limits:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(words.GraphTresholdsStyleMode.DASHED))
    if stacked:
        panel.stacking(common.StackingConfig().mode(words.StackingMode.NORMAL).group("A"))
    if least is not None:
        panel.min(least)
    if most is not None:
        panel.max(most)
    for number, query in enumerate(queries):
        panel.with_target(_target(query, number))
    return panel


def figure(
    title: str, about: str, expression: str, *, unit: str = "short", limits: Sequence[float] = (), rising: bool = True,
    width: int = 6,
) -> stat.Panel:  # fmt: skip
    """Return one figure, the last one, over a small graph. It turns yellow and red at *limits*, below them if not *rising*."""
    return (
        stat.Panel().title(title).description(about).datasource(_SOURCE).unit(unit).span(width).height(4)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(words.BigValueGraphMode.AREA).color_mode(words.BigValueColorMode.VALUE)
        .thresholds(_steps(*limits, rising=rising))
        .with_target(_target(Query(expression, title)))
    )  # fmt: skip


def bars(title: str, about: str, query: Query, *, unit: str = "short", width: int = 12) -> bargauge.Panel:
    """Return a bar for each series, of its last figure."""
    return (
        bargauge.Panel().title(title).description(about).datasource(_SOURCE).unit(unit).min(0).span(width).height(8)
        .orientation(words.VizOrientation.HORIZONTAL).display_mode(words.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).thresholds(_steps())
        .with_target(_target(query).instant())
    )  # fmt: skip


def heat_map(title: str, about: str, expression: str, *, unit: str = "s", width: int = 12) -> heatmap.Panel:
    """Return how many observations fell between the bounds of a histogram, over time. *expression* is by `le`."""
    return (
        heatmap.Panel().title(title).description(about).datasource(_SOURCE).span(width).height(8)
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions().mode(heat.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
            .scale(heat.HeatmapColorScale.EXPONENTIAL).exponent(0.5).fill("dark-orange").reverse(False)
        )
        .y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(words.AxisPlacement.LEFT))
        .with_target(_target(Query(expression, "{{le}}")).format(PromQueryFormat.HEATMAP))
    )  # fmt: skip


def columns(
    title: str, about: str, queries: Mapping[str, str], *, units: Mapping[str, str] | None = None, sort: str = "",
    width: int = 24,
) -> table.Panel:  # fmt: skip
    """
    Return a table with a row for each label set, and a column for each label and for each of *queries*, by its title.

    *units* are those of columns. It is sorted by the column *sort*, the largest first.
    """
    panel = (
        table.Panel()
        .title(title)
        .description(about)
        .datasource(_SOURCE)
        .span(width)
        .height(8)
        .show_header(True)
    )
    for number, expression in enumerate(queries.values()):
        panel.with_target(_target(Query(expression, ""), number).instant().format(PromQueryFormat.TABLE))
    names = {f"Value #{chr(ord('A') + number)}": name for number, name in enumerate(queries)}
    if len(queries) == 1:
        names = {"Value": next(iter(queries))}
    panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": {"Time": True}, "renameByName": names, "indexByName": {}},
        )
    )
    for name, unit in (units or {}).items():
        panel.override_by_name(name, [models.DynamicConfigValue(id_val="unit", value=unit)])
    if sort:
        panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(True)])
    return panel


def chosen(name: str, label: str, query: str, everything: str = ".+") -> builders.QueryVariable:
    """Return a variable with the values that *query* finds, of which a user chooses any number. *everything* is a pattern of all."""
    variable = (
        builders.QueryVariable(name).label(label).query(expanded(query)).datasource(_SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True).include_all(True).current(_ALL)
    )  # fmt: skip
    return variable.all_value(everything) if everything else variable


def page(
    uid: str, title: str, about: str, rows: Mapping[str, Sequence[Any]], *variables: builders.QueryVariable
) -> builders.Dashboard:  # fmt: skip
    """Return a dashboard of *rows* of panels by title, with the variables that all have and those that are given."""
    found = (
        builders.Dashboard(f"wsgi_prom / {title}").uid(uid).description(about).tags([TAG]).time("now-1h", "now").refresh("30s")
        .timezone("browser").editable().tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            builders.DashboardLink("wsgi_prom").type(models.DashboardLinkType.DASHBOARDS).tags([TAG]).as_dropdown(True)
            .include_vars(True).keep_time(True)
        )
        .with_variable(builders.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        # Each exporter has this metric. All are those that it finds, of the selector that `wsgi-prom dashboards` was given.
        .with_variable(chosen("job", "Job", f"label_values(wsgi_prom_build_info{{{SELECTOR}}}, job)", everything=""))
        .with_variable(chosen("instance", "Instance", 'label_values(wsgi_prom_build_info{job=~"$job"}, instance)'))
        .with_variable(
            builders.TextBoxVariable("prefix").label("Prefix").default_value("")
            .description("The setting WSGI_PROM_PREFIX of the servers: it begins the names of the metrics of requests.")
        )
    )  # fmt: skip
    for variable in variables:
        found.with_variable(variable)
    numbers = itertools.count(1)
    for name, panels in rows.items():
        found.with_row(builders.Row(name).id(next(numbers)))
        for panel in panels:
            found.with_panel(panel.id(next(numbers)))
    return found
