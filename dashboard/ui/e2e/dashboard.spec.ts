import AxeBuilder from "@axe-core/playwright";
import { test as base, type Cookie, expect, type Locator, type Page } from "@playwright/test";
import { agent, controller, demo, signInLink, tunnelNow } from "./demo";

const tunnels = 6;

/** One session for all tests that are not about sessions. */
const test = base.extend<object, { session: Cookie[] }>({
  session: [
    async ({ browser }, use) => {
      const page = await browser.newPage({ ignoreHTTPSErrors: true });
      await page.goto(signInLink());
      await expect(rows(page)).toHaveCount(tunnels);
      await use(await page.context().cookies());
    },
    { scope: "worker" },
  ],
});

/** What went wrong in the page without showing: script errors, broken policy, calls to elsewhere. */
let faults: string[] = [];

test.beforeEach(async ({ page }) => {
  faults = [];
  const origin = new URL(demo().dashboard).origin;
  page.on("pageerror", (err) => faults.push(`error: ${err.message}`));
  page.on("console", (m) => {
    if (/content security policy/i.test(m.text())) faults.push(`policy: ${m.text()}`);
  });
  page.on("request", (r) => {
    if (!r.url().startsWith(`${origin}/`) && !r.url().startsWith("data:")) faults.push(`calls ${r.url()}`);
  });
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (e) =>
      console.error(`Content Security Policy: ${e.violatedDirective} forbids ${e.blockedURI}`),
    );
  });
});

test.afterEach(() => {
  expect(faults).toEqual([]);
});

function rows(page: Page): Locator {
  return page.locator("tbody tr:not(.gap)");
}

function count(page: Page, status: string): Locator {
  return page.getByRole("region", { name: "Fleet" }).locator(`.count.${status} b`);
}

/** open goes to the list, in the session given, and waits until the fleet is there. */
async function open(page: Page, session: Cookie[]): Promise<void> {
  await page.context().addCookies(session);
  await page.goto(new URL("/tunnels", demo().dashboard).href);
  await expect(page.locator(".live")).toHaveText(/^live \d\d:\d\d:\d\dZ$/);
  await expect(rows(page)).toHaveCount(tunnels);
}

/** names of the tunnels as listed, from the top. */
async function names(page: Page): Promise<string[]> {
  return rows(page).locator(".name").allInnerTexts();
}

test("the sign-in link of the demonstration works once", async ({ page, browser }) => {
  const link = demo().dashboard;
  await page.goto(link);
  await expect(rows(page)).toHaveCount(tunnels);
  expect(page.url(), "the code stays nowhere").not.toContain("login");
  await page.reload();
  await expect(rows(page)).toHaveCount(tunnels);

  const other = await browser.newPage({ ignoreHTTPSErrors: true });
  await other.goto(link);
  await expect(other.getByRole("alert").filter({ hasText: "Sign-in failed" })).toContainText(
    "the link was used already, or is too old; make a new one",
  );
  await expect(other.getByText("swanherd dashboard")).toBeVisible();
  await expect(other.getByRole("table")).toHaveCount(0);
  // A good link, pasted into that very page, signs in.
  await other.goto(signInLink());
  await expect(rows(other)).toHaveCount(tunnels);
  await other.close();
});

test("six tunnels are up, and the counts agree", async ({ page, session }) => {
  await open(page, session);
  await expect(rows(page).locator(".status", { hasText: "Up" })).toHaveCount(tunnels);
  await expect(count(page, "up")).toHaveText("6");
  for (const status of ["down", "degraded", "stale", "negotiating"]) {
    await expect(count(page, status)).toHaveText("0");
  }
  await expect(page.getByText("4 / 4 edges connected")).toBeVisible();
  await expect(page.getByText("4 / 4 edges in sync")).toBeVisible();
  await expect(page.getByText("0 isolated sites")).toBeVisible();
  await expect(page.getByText("6 tunnels")).toBeVisible();
  expect((await names(page)).sort()).toEqual(
    demo()
      .tunnels.map((t) => t.name.replace("networks/demo/tunnels/", ""))
      .sort(),
  );
});

test("the filter is in the address and survives a reload", async ({ page, session }) => {
  await open(page, session);
  await page.keyboard.press("/");
  await page.keyboard.type("tokyo");
  await expect(rows(page)).toHaveCount(3);
  await expect(page.getByText("3 of 6 tunnels pass the filter")).toBeVisible();
  await page.getByRole("button", { name: /Up/ }).click();
  await expect(page).toHaveURL(/\/tunnels\?status=up&q=tokyo$/);
  await page.reload();
  await expect(rows(page)).toHaveCount(3);
  await expect(page.getByLabel("Filter tunnels")).toHaveValue("tokyo");
  await expect(page.getByRole("button", { name: /Up/ })).toHaveAttribute("aria-pressed", "true");
  await page.goBack();
  await expect(page.getByRole("button", { name: /Up/ })).toHaveAttribute("aria-pressed", "false");
});

test("the details show both ends with their SPIs", async ({ page, session }) => {
  await open(page, session);
  const [name = ""] = await names(page);
  await page.getByRole("link", { name }).click();
  await expect(page).toHaveURL(new RegExp(`/tunnels/demo/${name}$`));
  const dialog = page.getByRole("dialog", { name });
  const end = (side: string) => dialog.getByRole("region", { name: `End ${side}` });
  await expect(async () => {
    const { a, b } = tunnelNow(name); // an SA may be replaced at any time
    const ike = `${a.report.ikeSa.initiatorSpi} → ${a.report.ikeSa.responderSpi}`;
    const [atA, atB] = [a.report.childSas[0], b.report.childSas[0]];
    await expect(end("A")).toContainText(ike, { timeout: 1000 });
    await expect(end("B")).toContainText(ike, { timeout: 1000 });
    await expect(end("A")).toContainText(`${atA?.spiIn} in, ${atA?.spiOut} out`, { timeout: 1000 });
    await expect(end("B")).toContainText(`${atA?.spiOut} in, ${atA?.spiIn} out`, { timeout: 1000 });
    expect(atB?.spiIn).toBe(atA?.spiOut);
  }).toPass({ timeout: 20_000 });
  await page.reload();
  await expect(dialog.getByRole("region")).toHaveCount(2);
  await dialog.getByRole("button", { name: "Close" }).click();
  await expect(dialog).toHaveCount(0);
  await expect(page).toHaveURL(/\/tunnels$/);
});

for (const colorScheme of ["dark", "light"] as const) {
  test(`no serious fault in accessibility, ${colorScheme}`, async ({ page, session }) => {
    await page.emulateMedia({ colorScheme });
    await open(page, session);
    const check = async () => {
      const found = await new AxeBuilder({ page })
        .withTags(["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa"])
        .analyze();
      const bad = found.violations.filter((v) => v.impact === "serious" || v.impact === "critical");
      expect(bad.map((v) => `${v.id}: ${v.nodes.map((n) => n.html).join(" ")}`)).toEqual([]);
    };
    await check();
    await rows(page).getByRole("link").first().click();
    await expect(page.getByRole("dialog")).toBeVisible();
    await check();
  });
}

test("it fits a narrow window", async ({ page, session }) => {
  await page.setViewportSize({ width: 400, height: 800 });
  await open(page, session);
  const [content, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  expect(content).toBeLessThanOrEqual(window);
});

test("a controller that falls silent is seen, and its return", async ({ page, session }) => {
  await open(page, session);
  const bar = page.getByRole("alert");
  const glyph = rows(page).locator(".glyph > *").first();
  const fill = () => glyph.evaluate((e) => getComputedStyle(e).fill);
  expect(await fill()).not.toBe("none");
  const { pid } = controller();
  process.kill(pid, "SIGSTOP");
  try {
    await expect(bar).toContainText(/Live data stopped at \d\d:\d\d:\d\dZ/, { timeout: 6500 });
    expect(await fill(), "no shape claims to be of now").toBe("none");
    await expect(rows(page), "the last known stays").toHaveCount(tunnels);
  } finally {
    process.kill(pid, "SIGCONT");
  }
  await expect(bar).toHaveCount(0, { timeout: 20_000 });
  expect(await fill()).not.toBe("none");
  await expect(rows(page)).toHaveCount(tunnels);
  expect(new Set(await names(page)).size, "no row is there twice").toBe(tunnels);
});

test("the keyboard is enough", async ({ page, session }) => {
  await open(page, session);
  const links = rows(page).getByRole("link");
  for (let i = 0; i < 30 && (await links.locator(":scope:focus").count()) === 0; i++) {
    await page.keyboard.press("Tab");
  }
  const listed = await names(page);
  await expect(links.nth(0)).toBeFocused();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("j");
  await expect(page.getByRole("link", { name: listed[2] })).toBeFocused();
  await page.keyboard.press("ArrowUp");
  await expect(page.getByRole("link", { name: listed[1] })).toBeFocused();
  await page.keyboard.press("End");
  await expect(page.getByRole("link", { name: listed[5] })).toBeFocused();
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await expect(page.getByRole("dialog", { name: listed[1] })).toBeVisible();
  await page.keyboard.press("Escape");
  await expect(page.getByRole("dialog")).toHaveCount(0);
  await expect(page.getByRole("link", { name: listed[1] })).toBeFocused();
  await page.keyboard.press("Tab");
  await expect(links.locator(":scope:focus"), "the table is one stop").toHaveCount(0);
});

test("the tunnels of an agent that was killed come first, and no others", async ({ page, session }) => {
  await open(page, session);
  process.kill(agent("lima").pid, "SIGKILL");
  await expect(count(page, "up")).toHaveText("3", { timeout: 30_000 });
  await expect(page.getByText("3 / 4 edges connected")).toBeVisible();
  await expect(page.getByText(/Not connected: ?lima/)).toBeVisible();
  const listed = await names(page);
  expect(listed.slice(0, 3).every((n) => n.includes("lima"))).toBe(true);
  expect(listed.slice(3).some((n) => n.includes("lima"))).toBe(false);
  await expect(rows(page).locator(".status", { hasText: "Up" })).toHaveCount(3);
  await expect(rows(page).first().locator(".reason")).toContainText("lima");
});

test("signing out ends the session", async ({ page, context }) => {
  await page.goto(signInLink());
  await expect(rows(page)).toHaveCount(tunnels);
  const [cookie] = await context.cookies();
  expect(cookie).toMatchObject({ httpOnly: true, secure: true, sameSite: "Strict" });
  await page.getByRole("button", { name: "Sign out" }).click();
  await expect(page.getByText("You are not signed in")).toBeVisible();
  await expect(page.getByRole("table")).toHaveCount(0);
  expect(await context.cookies()).toEqual([]);
  // The controller has forgotten it, too.
  if (cookie) await context.addCookies([cookie]);
  await page.reload();
  await expect(page.getByText("You are not signed in")).toBeVisible();
});
