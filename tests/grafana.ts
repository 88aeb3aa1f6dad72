// A dashboard as @grafana/schema, which Grafana publishes, types it: tests/test_dashboards.py makes a JSON schema of it.
import type * as raw from "@grafana/schema/dist/types/raw/dashboard/x/types.gen";
import type * as bargauge from "@grafana/schema/dist/types/raw/composable/bargauge/panelcfg/x/types.gen";
import type * as heatmap from "@grafana/schema/dist/types/raw/composable/heatmap/panelcfg/x/types.gen";
import type * as stat from "@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen";
import type * as table from "@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen";
import type * as timeseries from "@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen";

type Of<Type extends string, Options, Custom> = Omit<raw.Panel, "type" | "options" | "fieldConfig"> & {
  type: Type;
  options: Partial<Options>;
  fieldConfig: Omit<raw.FieldConfigSource, "defaults"> & { defaults: Omit<raw.FieldConfig, "custom"> & { custom?: Partial<Custom> } };
};

type AnyPanel =
  | raw.RowPanel
  | Of<"stat", stat.Options, {}>
  | Of<"bargauge", bargauge.Options, {}>
  | Of<"timeseries", timeseries.Options, timeseries.FieldConfig>
  | Of<"heatmap", heatmap.Options, heatmap.FieldConfig>
  | Of<"table", table.Options, table.FieldConfig>;

export type Page = Omit<raw.Dashboard, "panels"> & { panels: AnyPanel[] };
