import { isStatusKey } from "./status";
import type { Filter } from "./store";

/** A view is a state of the page; every one has an address that can be shared. */
export interface View {
  filter: Filter;
  /** Name of the tunnel whose details are open; empty: none. */
  tunnel: string;
}

// Names of resources are made of these alone, so nothing needs escaping.
const tunnelPath = /^\/tunnels\/([a-z0-9-]+)\/([a-z0-9-]+)$/;

/** parse reads a view from an address. What it does not know it ignores. */
export function parse(path: string, search: string): View {
  const q = new URLSearchParams(search);
  const statuses = (q.get("status") ?? "").split(",").filter(isStatusKey);
  const [, network, tunnel] = tunnelPath.exec(path) ?? [];
  return {
    filter: { statuses: [...new Set(statuses)], text: q.get("q") ?? "" },
    tunnel: tunnel === undefined ? "" : `networks/${network}/tunnels/${tunnel}`,
  };
}

/** address is the inverse of parse. */
export function address(view: View): string {
  const q = new URLSearchParams();
  if (view.filter.statuses.length > 0) q.set("status", view.filter.statuses.join(","));
  if (view.filter.text !== "") q.set("q", view.filter.text);
  const search = q.toString().replaceAll("%2C", ",");
  const [, network, , tunnel] = view.tunnel.split("/");
  const path = tunnel === undefined ? "/tunnels" : `/tunnels/${network}/${tunnel}`;
  return search === "" ? path : `${path}?${search}`;
}

/** loginCode is the code in the fragment of a sign-in link, if there is one. */
export function loginCode(hash: string): string | undefined {
  return /^#login=([\w.~-]+)$/.exec(hash)?.[1];
}
