import type { VNode } from "preact";
import { expect, test } from "vitest";
import { ConnectionBar, Live, StoreBar } from "../src/connection";
import { clock } from "../src/format";
import { noon } from "./fixtures";

/** The attributes and the text of an element. */
function props(v: unknown): { class?: string; role?: string; text: string } {
  const p = (v as VNode<{ class?: string; role?: string; children?: unknown }>).props;
  return { class: p.class, role: p.role, text: [p.children].flat().join("") };
}

test("that the controller does not reach its store is told, since when, as an alert", () => {
  const bar = props(StoreBar({ staleSince: noon }));
  expect([bar.class, bar.role]).toEqual(["lost", "alert"]);
  expect(bar.text).toContain(`does not reach its store: changes since ${clock(noon)} are not shown`);
  expect(StoreBar({ staleSince: undefined })).toBeNull();
});

test("what is not live is not called live", () => {
  expect(props(Live({ live: true, time: noon })).class).toBe("live");
  const not = props(Live({ live: false, time: noon }));
  expect(not.class).toBe("live not");
  expect(not.text).toContain("not live");
});

test("a silent stream is told, one that speaks is not", () => {
  const connection = { state: "connecting", attempt: 1, retryAt: 4000 } as const;
  const bar = props(ConnectionBar({ connection, silence: 5001, time: noon, now: 0 }));
  expect([bar.class, bar.role]).toEqual(["lost", "alert"]);
  expect(bar.text).toContain(`Live data stopped at ${clock(noon)}`);
  expect(ConnectionBar({ connection, silence: 5000, time: noon, now: 0 })).toBeNull();
});
