"""The playground's form in a real browser: made from the schema, errors at their fields, for keyboards and phones."""

import copy
from typing import Any

import pytest
import requests

from tests.support.page import FOCUSED_ERROR, PASTE_TEXTS, RUN
from tests.support.servers import RunningServer
from tools.browser import Browser

pytestmark = pytest.mark.slow

TYPE_TEXTS = """
await page.getByLabel("texts[0]", { exact: true }).focus();
for (const [position, text] of given.texts.entries()) {
  if (position > 0) await page.keyboard.press("Enter");
  await page.keyboard.type(text);
}
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


MAX_GAP = 12  # pixels between an input and its error


@pytest.fixture(scope="module")
def schema(playground: str) -> dict[str, Any]:
    served: dict[str, Any] = requests.get(f"{playground}/openapi.json", timeout=600).json()
    return served


def _kind(property_schema: dict[str, Any]) -> str:
    if "allOf" in property_schema:
        return "select-one"
    if property_schema.get("format") == "uri":
        return "file"
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
    assert [field["name"] for field in form][1:4] == ["texts", "seed", "texts_file"]
    assert form[2] | {"choices": []} == {
        "name": "seed",
        "kind": "number",
        "choices": [],
        "value": "4",
        "help": "Of a dice. Default: 4.",
    }
    assert '--data \'{"input":{"seed":7,"label":"mine"}}\'' in code


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


SET = """
const field = (name) => page.locator(`#input-${name}`);
const item = (position) => page.getByLabel(`texts[${position}]`, { exact: true });
const texts = async (values) => {
  await page.evaluate((lines) => navigator.clipboard.writeText(lines.join("\\n")), values);
  await item(0).press("Control+V");
};
const insert = (area, value) => area.evaluate((element, text) => (element.value = text), value);
"""
# What is set, where the error is shown and how it begins, and a change that it may be solved by.
REFUSED = [
    ('await field("text").fill(" ");', "text", "text is empty;", 'await field("text").fill("a");'),
    (
        'await texts(["a", "b", "c"]); await item(2).fill(" ");',
        "texts[2]",
        "texts[2] is empty;",
        'await item(2).fill("c");',
    ),
    (
        'await texts(["a", "b", "c"]); await item(1).fill(" ");',
        "texts[1]",
        "texts[1] is empty;",
        'await page.getByLabel("Remove texts[1]").click();',
    ),
    (
        'await texts(["a", "b"]); await item(1).fill("word ".repeat(2100)); await field("truncate").uncheck();',
        "texts[1]",
        "texts[1] has 2,1",
        'await field("truncate").check();',
    ),
    (
        'await texts(["a", "b", "c"]); await insert(item(1), "\\ud83e");',
        "texts[1]",
        "",
        'await item(1).fill("b");',
    ),
    (
        'await item(0).fill("a"); await insert(field("title"), "\\udc00");',
        "title",
        "",
        'await field("title").fill("t");',
    ),
    (
        'await item(0).fill("a"); await field("title").fill("t"); await field("task").selectOption("none");',
        "title",
        "title goes with task retrieval_document only;",
        'await field("task").selectOption("retrieval_document");',
    ),
    (
        'await item(0).fill("a"); await field("text").fill("a");',
        "text",
        "text and texts were given together;",
        'await item(0).fill("");',
    ),
    (
        'await texts(Array(65).fill("a")); await field("output_format").selectOption("array");',
        "output_format",
        "output_format is array: 65 texts",
        'await field("output_format").selectOption("base64");',
    ),
    ("", None, "no text was given;", 'await field("text").fill("a");'),
]


def test_each_refusal_is_shown_where_its_input_is_until_that_changes(browser: Browser, playground: str) -> None:
    visits = [
        f"""
        await page.reload();
        {fill}{RUN}
        errors.push(await (async () => {{ {FOCUSED_ERROR} }})());
        {change}
        left.push(await page.locator(".error:visible, [aria-invalid]").count());
        """
        for fill, _, _, change in REFUSED
    ]
    script = f"{SET} const [errors, left] = [[], []]; {''.join(visits)} return [errors, left];"
    errors, left = browser.visit(playground, script).value
    assert [error["name"] or error["field"] for error in errors] == [place for _, place, _, _ in REFUSED]
    for error, (_, place, beginning, _) in zip(errors, REFUSED, strict=True):
        assert error["message"].startswith(beginning), error
        assert (error["invalid"], error["shown"]) == (None if place is None else "true", 1), error
        assert place is None or 0 <= error["below"] < MAX_GAP, error
    assert left == [0] * len(REFUSED)


def test_an_empty_text_at_the_end_of_the_list_is_left_out(browser: Browser, playground: str) -> None:
    script = f"""
    {TYPE_TEXTS}
    await page.keyboard.press("Enter");
    await page.keyboard.press("Enter");
    {RUN}
    return page.locator("#status").innerText();
    """
    status = browser.visit(playground, script, given={"texts": ["one", "two"]}).value
    assert status.startswith("2 vectors of 768 numbers")


def test_texts_are_embedded_without_prompt_and_cut_or_refused_as_chosen(
    browser: Browser, playground: str, server: RunningServer
) -> None:
    script = f"""
    {SET}
    await texts(given.texts);
    await field("task").selectOption("none");
    {RUN}
    const cut = await page.locator("#status, #answer pre").allInnerTexts();
    await page.getByLabel("truncate").uncheck();
    {RUN}
    const refused = await page.locator(".error:visible").innerText();
    await item(1).fill("short");
    {RUN}
    return [cut, refused, await page.locator("#status, #code pre").allInnerTexts()];
    """
    given = {"texts": ["Mars", "word " * 2100]}
    (cut, refused, (status, code)) = browser.visit(playground, script, given=given).value
    assert cut[0].endswith(" Texts cut because they were too long: 1 (see the log).")
    tokens = server.predict(**given, task="none")["tokens"]
    assert tokens[1] == 2048
    assert f'"tokens": {tokens}' in cut[1]
    assert "texts[1] has 2,1" in cut[2]
    assert refused.startswith("texts[1] has 2,1")
    assert status.endswith("s.")
    assert '"task": "none"' in code
    assert '"truncate": False' in code


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


@pytest.mark.parametrize(
    "fill",
    [
        PASTE_TEXTS + RUN,
        "await page.locator('#input-text').fill(given.texts[3]);" + RUN,
        "await page.getByLabel('texts[0]', { exact: true }).fill(' ');" + RUN,
        RUN,
        "await page.route('**/v1/**', () => {}); await page.getByRole('button', { name: 'Run' }).click();",
    ],
    ids=["texts", "a long text", "an error at a text", "an error at the top", "running"],
)
def test_a_phone_needs_no_scrolling_sideways(browser: Browser, playground: str, fill: str) -> None:
    script = f"{fill} return page.evaluate(() => document.documentElement.scrollWidth);"
    assert browser.visit(playground, script, given={"texts": TEXTS}, width=360).value == 360


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
