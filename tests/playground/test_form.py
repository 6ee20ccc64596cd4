"""The playground's form in a real browser: made from the schema, errors at their fields, for keyboards and phones."""

import copy
from typing import Any

import pytest
import requests

from tests.support.page import PASTE_TEXTS, RUN
from tools.browser import Browser

pytestmark = pytest.mark.slow

TYPE_TEXTS = """
await page.getByLabel("texts[0]", { exact: true }).focus();
for (const [position, text] of given.texts.entries()) {
  if (position > 0) await page.keyboard.press("Enter");
  await page.keyboard.type(text);
}
"""
FOCUSED_ERROR = """
return page.evaluate(() => {
  const focused = document.activeElement;
  const described = (focused.getAttribute("aria-describedby") ?? "").split(" ");
  const errors = described.map((id) => document.getElementById(id)).filter((element) => element?.matches(".error"));
  return {
    field: focused.closest("[data-field]")?.dataset.field ?? null,
    name: focused.getAttribute("aria-label"),
    invalid: focused.getAttribute("aria-invalid"),
    message: errors.length > 0 ? errors[0].innerText : focused.innerText,
    shown: [...document.querySelectorAll(".error")].filter((error) => error.checkVisibility()).length,
  };
});
"""
FORM = """
return page.locator("[data-field]").evaluateAll((fields) => fields.map((field) => {
  const control = field.querySelector("select, input, textarea");
  return {
    name: field.dataset.field,
    kind: field.querySelector("[role=group]") ? "list" : control.type,
    choices: [...(control.options ?? [])].map((option) => option.value),
    value: control.type === "checkbox" ? String(control.checked) : control.value,
    help: field.querySelector(".help[id]").innerText,
  };
}));
"""
TEXTS = ["Mars is often called the Red Planet.", "Venus is hot.", "Bread " * 40, "a" * 900, "木星は大きい。"]


@pytest.fixture(scope="module")
def schema(playground: str) -> dict[str, Any]:
    served: dict[str, Any] = requests.get(f"{playground}/openapi.json", timeout=600).json()
    return served


def _kind(property_schema: dict[str, Any]) -> str:
    if "allOf" in property_schema:
        return "select-one"
    kinds = {"boolean": "checkbox", "array": "list", "string": "textarea", "number": "number", "integer": "number"}
    return kinds[property_schema["type"]]


def test_the_form_has_the_schemas_inputs_in_order_with_choices_defaults_and_descriptions(
    browser: Browser, playground: str, schema: dict[str, Any]
) -> None:
    schemas = schema["components"]["schemas"]
    expected = []
    for name, described in sorted(schemas["Input"]["properties"].items(), key=lambda item: item[1]["x-order"]):
        default = "" if described["default"] is None else str(described["default"])
        expected.append(
            {
                "name": name,
                "kind": _kind(described),
                "choices": [str(choice) for choice in schemas[name]["enum"]] if "allOf" in described else [],
                "value": default.lower() if described.get("type") == "boolean" else default,
                "help": described["description"] + (f" Default: {str(default).lower()}." if default else ""),
            }
        )
    assert browser.visit(playground, FORM).value == expected


def test_an_input_that_the_schema_gains_is_in_the_form_and_in_the_request(
    browser: Browser, playground: str, schema: dict[str, Any]
) -> None:
    changed = copy.deepcopy(schema)
    inputs = changed["components"]["schemas"]["Input"]
    inputs["properties"]["seed"] = {"type": "integer", "description": "Of a dice.", "default": 4, "x-order": 1.5}
    inputs["properties"]["label"] = {"type": "string", "description": "A name.", "x-order": 9}
    inputs["required"] = ["label"]
    script = f"""
    const form = await (async () => {{ {FORM} }})();
    await page.getByLabel("seed").fill("7");
    await page.getByLabel("label").fill("mine");
    await page.getByLabel("curl").check();
    return [form, await page.locator("#code pre").innerText()];
    """
    form, code = browser.visit(playground, script, replaced={"/openapi.json": changed}).value
    assert [field["name"] for field in form][1:4] == ["texts", "seed", "task"]
    assert form[2] | {"choices": []} == {
        "name": "seed",
        "kind": "number",
        "choices": [],
        "value": "4",
        "help": "Of a dice. Default: 4.",
    }
    assert '--data \'{"input":{"seed":7,"label":"mine"}}\'' in code


def test_a_refusal_of_the_container_is_shown_at_its_text_until_that_changes(browser: Browser, playground: str) -> None:
    script = f"""
    {TYPE_TEXTS}{RUN}
    const error = await (async () => {{ {FOCUSED_ERROR} }})();
    await page.keyboard.type("now it is something");
    return [error, await page.locator(".error:visible, [aria-invalid]").count()];
    """
    error, left = browser.visit(playground, script, given={"texts": ["one", " ", "three"]}).value
    assert error["field"] == "texts"
    assert error["name"] == "texts[1]"
    assert error["invalid"] == "true"
    assert error["message"].startswith("texts[1] is empty; every text needs")
    assert error["shown"] == 1
    assert left == 0


def test_a_refusal_by_the_schema_is_shown_at_its_field(
    browser: Browser, playground: str, schema: dict[str, Any]
) -> None:
    changed = copy.deepcopy(schema)
    changed["components"]["schemas"]["embedding_dim"]["enum"].append(300)  # which the container does not know
    script = f"""
    await page.locator("#input-text").fill("Mars");
    await page.locator("#input-embedding_dim").selectOption("300");
    {RUN}{FOCUSED_ERROR}
    """
    error = browser.visit(playground, script, replaced={"/openapi.json": changed}).value
    assert error["field"] == "embedding_dim"
    assert error["message"] == "embedding_dim: 300 is not one of [768,512,256,128]"
    assert (error["invalid"], error["shown"]) == ("true", 1)


def test_an_error_without_a_field_is_shown_at_the_forms_top(browser: Browser, playground: str) -> None:
    error = browser.visit(playground, RUN + FOCUSED_ERROR).value
    assert error["field"] is None
    assert error["message"].startswith("neither text nor texts was given")
    assert error["shown"] == 1


def test_a_server_that_has_ended_is_reported(browser: Browser, playground: str) -> None:
    script = f'await page.route("**/v1/**", (route) => route.abort());{RUN}{FOCUSED_ERROR}'
    assert "Is scripts/playground still running?" in browser.visit(playground, script).value["message"]


def test_a_page_can_be_used_with_the_keyboard_alone(browser: Browser, playground: str) -> None:
    script = """
    const focused = () => page.evaluate(() => {
      const { id, ariaLabel, innerText } = document.activeElement;
      const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
      return { name: id || ariaLabel || innerText, outline: `${outlineWidth} ${outlineStyle}` };
    });
    const passed = [];
    do {
      await page.keyboard.press("Tab");
      passed.push(await focused());
      const { name } = passed.at(-1);
      if (name === "texts[0]") {
        await page.keyboard.type("Mars");
        await page.keyboard.press("Enter");
        await page.keyboard.type("Venus");
        passed.push(await focused());
      }
      if (name === "input-task") await page.keyboard.press("ArrowDown");
      if (name === "input-normalize") await page.keyboard.press("Space");
    } while (passed.at(-1).name !== "Run");
    await page.keyboard.press("Enter");
    await page.locator("#status").filter({ hasText: "2 vectors of 768 numbers" }).waitFor();
    return [passed, await page.locator("#code pre").innerText()];
    """
    passed, code = browser.visit(playground, script).value
    names = [control["name"] for control in passed]
    for name in ["input-text", "texts[1]", "Remove texts[1]", "Add another", "input-title", "input-output_dtype"]:
        assert name in names
    assert {control["outline"] for control in passed} == {"3px solid"}
    for line in ('"Mars",\n', '"task": "retrieval_query"', '"normalize": False'):
        assert line in code


def test_control_and_enter_run_the_request_and_a_removed_text_is_not_in_it(browser: Browser, playground: str) -> None:
    script = f"""
    {TYPE_TEXTS}
    await page.getByLabel("Remove texts[1]").click();
    await page.keyboard.press("Control+Enter");
    await page.locator("#status").filter({{ hasText: "2 vectors" }}).waitFor();
    return page.locator("#code pre").innerText();
    """
    code = browser.visit(playground, script, given={"texts": ["one", "two", "three"]}).value
    assert '"one",\n' in code
    assert "two" not in code


def test_every_control_has_a_name_and_the_result_is_announced(browser: Browser, playground: str) -> None:
    script = """
    return page.evaluate(() => [
      [...document.forms[0].elements].filter(
        (control) => !control.labels[0] && !control.ariaLabel && !control.innerText).length,
      document.forms[0].elements.length,
      document.querySelector("#status").getAttribute("role"),
    ]);
    """
    unnamed, controls, role = browser.visit(playground, script).value
    assert (unnamed, role) == (0, "status")
    assert controls > 8


def test_nothing_is_loaded_from_elsewhere(browser: Browser, playground: str) -> None:
    visit = browser.visit(playground, PASTE_TEXTS + RUN, given={"texts": TEXTS})
    assert any("/v1/models/" in url for url in visit.requests)
    elsewhere = [url for url in visit.requests if not url.startswith((f"{playground}/", "data:"))]
    assert elsewhere == []


@pytest.mark.parametrize("fill", [PASTE_TEXTS, "await page.locator('#input-text').fill(given.texts[3]);", ""])
def test_a_phone_needs_no_scrolling_sideways(browser: Browser, playground: str, fill: str) -> None:
    script = f"{fill}{RUN} return page.evaluate(() => document.documentElement.scrollWidth);"
    assert browser.visit(playground, script, given={"texts": TEXTS}, width=390).value == 390


# The lowest contrast (WCAG 2) between the colour of an element with its own words and the background behind it.
MIN_CONTRAST = """
return page.evaluate(() => {
  const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
  const luminance = (colour) => {
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const parts = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255);
    const [r, g, b] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? ground(element.parentElement) : colour;
  };
  const worded = [...document.body.querySelectorAll("*")].filter(
    (element) => element.checkVisibility() && !element.closest("svg") &&
      [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()),
  );
  const contrasts = worded.map((element) => {
    const pair = [getComputedStyle(element).color, ground(element)].map(luminance).sort((a, b) => a - b);
    return (pair[1] + 0.05) / (pair[0] + 0.05);
  });
  return [worded.length, Math.min(...contrasts), luminance(ground(document.body))];
});
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_light_and_dark(browser: Browser, playground: str, scheme: str) -> None:
    script = TYPE_TEXTS + RUN + MIN_CONTRAST
    count, contrast, ground = browser.visit(playground, script, given={"texts": ["one", " "]}, scheme=scheme).value
    assert count > 40
    assert contrast >= 4.5
    assert (ground > 0.5) == (scheme == "light")
