"""The report in a real headless browser: it fits desktop and telephone, sorts, hides classes, enlarges, and prints."""

import re
import shutil
from contextlib import contextmanager
from itertools import pairwise

import pytest
from real import need
from reports import shown

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), "")

CONTRASTS = """() => {
    const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const light = text => text.match(/[\\d.]+/g).slice(0, 3).map(v => linear(v / 255))
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const clear = e => getComputedStyle(e).backgroundColor === 'rgba(0, 0, 0, 0)';
    const found = [];
    for (const e of document.querySelectorAll('main *, header *, footer *, nav *')) {
        const words = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        if (!words || e.closest('.matrix td')) continue;
        let b = e;
        while (b && clear(b)) b = b.parentElement;
        const behind = b ? light(getComputedStyle(b).backgroundColor) : 1;
        const [x, y] = [behind, light(getComputedStyle(e).color)].sort((p, q) => q - p);
        found.push([(x + .05) / (y + .05), e.className + ' ' + e.textContent.slice(0, 30)]);
    }
    return found.sort((p, q) => p[0] - q[0]).slice(0, 5);
}"""
"""The five texts that differ least from what is behind them, by the contrast ratio of WCAG 2."""

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    need(None if CHROMIUM else "no chromium on this machine (apt-get install chromium)")
    return shown(tmp_path_factory.getbasetemp())[1]


@contextmanager
def opened(page, size, **options):
    """The page at a size; what it asked for and complained about is empty at the end."""
    from playwright.sync_api import sync_playwright

    told = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM or None, args=["--no-sandbox"])
        tab = browser.new_page(viewport=size, **options)
        tab.on("console", lambda message: told.append(message.text))
        tab.on("pageerror", lambda error: told.append(str(error)))
        tab.on("request", lambda request: None if request.url.startswith("data:") else told.append(request.url))
        tab.goto(page.as_uri())
        assert told == [page.as_uri()]
        yield tab
        assert told == [page.as_uri()]
        browser.close()


def wide(tab):
    return tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def column(tab, table, number):
    return tab.locator(table).locator(f"tbody tr td:nth-child({number})").all_inner_texts()


def first_number(text):
    found = re.match(r"-?[\d,.]+", text)
    return float(found[0].replace(",", "")) if found else None


CLASSES = "#classes figure:has(figcaption:text-is('Classes on internal')) table"


def test_the_page_fits_sorts_hides_classes_and_enlarges(page):
    with opened(page, DESKTOP) as tab:
        assert wide(tab) == 0

        # Sorting: as numbers, both ways, then back; what is no number stands last.
        before = column(tab, CLASSES, 2)
        head = tab.locator(f"{CLASSES} th:nth-child(2)")
        for way, sign in (("ascending", 1), ("descending", -1)):
            head.locator("button").click()
            assert head.get_attribute("aria-sort") == way
            found = [sign * first_number(text) for text in column(tab, CLASSES, 2)]
            assert found == sorted(found)
        head.locator("button").press("Enter")
        assert head.get_attribute("aria-sort") is None
        assert column(tab, CLASSES, 2) == before
        iou = tab.locator(f"{CLASSES} th:nth-child(3)")
        iou.locator("button").click()
        found = [first_number(text) for text in column(tab, CLASSES, 3)]
        known = [value for value in found if value is not None]
        assert found[: len(known)] == sorted(known)

        # Classes: off in tables, matrices and maps, and on again.
        wheat = tab.locator("#classes .legend button", has_text="wheat")
        row = tab.locator(CLASSES).locator("tr", has_text="wheat")
        map_of = tab.locator("#maps .painted img").first
        matrix = tab.locator("#confusion .matrix").first
        drawn = map_of.get_attribute("src")
        assert row.is_visible()
        wheat.click()
        assert wheat.get_attribute("aria-pressed") == "false"
        assert tab.locator("#maps .legend button", has_text="wheat").get_attribute("aria-pressed") == "false"
        assert not row.is_visible()
        assert not matrix.locator("thead th", has_text="wheat").is_visible()
        assert not matrix.locator("tbody tr", has_text="wheat").is_visible()
        assert matrix.locator("tbody tr:visible").count() == 10
        assert matrix.locator("tbody tr:visible").first.locator("td:visible").count() == 10
        tab.wait_for_function("image => image.style.backgroundImage.startsWith('url')", arg=map_of.element_handle())
        assert map_of.get_attribute("src") != drawn
        tab.locator("#classes .legend button", has_text="Show all").click()
        assert wheat.get_attribute("aria-pressed") == "true"
        assert row.is_visible()
        assert map_of.get_attribute("src") == drawn

        # A patch: Enter enlarges, arrows go on, Escape closes and gives the focus back.
        button = tab.locator("#maps .tile button").first
        button.focus()
        tab.keyboard.press("Enter")
        large = tab.locator("#large")
        assert large.is_visible()
        assert large.locator(".stage img").bounding_box()["width"] > 400
        shown = large.locator(".stage img").get_attribute("alt")
        tab.keyboard.press("ArrowRight")
        assert large.locator(".stage img").get_attribute("alt") != shown
        assert large.locator(".what").inner_text() == "truth"
        tab.keyboard.press("ArrowLeft")
        assert large.locator(".stage img").get_attribute("alt") == shown
        tab.keyboard.press("Escape")
        assert not large.is_visible()
        assert tab.evaluate("document.activeElement.getAttribute('aria-label')") == f"Enlarge: {shown}"

        tab.set_viewport_size(PHONE)
        assert wide(tab) == 0


@pytest.mark.slow
def test_on_a_telephone_nothing_sticks_out_and_a_patch_is_enlarged_by_a_touch(page):
    with opened(page, PHONE, has_touch=True) as tab:
        assert wide(tab) == 0
        tab.locator("#maps .tile button").first.tap()
        box = tab.locator("#large").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
        tab.locator("#large .on").tap()
        assert tab.locator("#large .what").inner_text() == "truth"
        tab.locator("#large .close").tap()
        assert not tab.locator("#large").is_visible()
        for fold in tab.locator("details > summary").all():
            fold.tap()
        assert wide(tab) == 0
        # Words are large enough to be read.
        sizes = "[...document.querySelectorAll('p, li, td')].map(e => parseFloat(getComputedStyle(e).fontSize))"
        assert min(tab.evaluate(sizes)) >= 11


@pytest.mark.slow
def test_classes_that_are_off_let_the_image_show_through(page):
    with opened(page, DESKTOP) as tab:
        count = """image => { const c = document.createElement('canvas');
            [c.width, c.height] = [image.naturalWidth, image.naturalHeight]; const d = c.getContext('2d');
            d.drawImage(image, 0, 0); const p = d.getImageData(0, 0, c.width, c.height).data; const n = {};
            for (let i = 0; i < p.length; i += 4) { const k = [...p.slice(i, i + 4)].join(); n[k] = (n[k] || 0) + 1; }
            return n; }"""
        image = tab.locator("#maps .painted img").first
        before = image.evaluate(count)
        black = before.get("0,0,0,255", 0)  # background
        assert black
        tab.locator("#maps .legend button", has_text="background").click()
        tab.wait_for_function("image => image.style.backgroundImage.startsWith('url')", arg=image.element_handle())
        image.evaluate("image => image.decode()")
        after = image.evaluate(count)
        assert "0,0,0,255" not in after
        assert after["0,0,0,0"] == black
        assert {k: v for k, v in after.items() if k != "0,0,0,0"} == {
            k: v for k, v in before.items() if k != "0,0,0,255"
        }


@pytest.mark.slow
def test_without_scripts_it_is_a_plain_whole_page(page):
    with opened(page, DESKTOP, java_script_enabled=False) as tab:
        assert tab.locator("table:visible").count() > 20
        assert tab.locator("#maps img:visible").count() >= 12
        assert tab.locator("main button").count() == 0
        assert not tab.locator("#large").is_visible()
        tab.locator("nav a", has_text="Confusion").click()
        assert tab.url.endswith("#confusion")


@pytest.mark.slow
def test_it_is_in_order_for_those_who_do_not_see_it(page):
    with opened(page, DESKTOP) as tab:
        assert tab.locator("html").get_attribute("lang") == "en"
        assert all(one.get_attribute("alt") for one in tab.locator("main img").all())
        levels = tab.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(e => +e.tagName[1])")
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        assert all(one.get_attribute("aria-label") for one in tab.locator(".scroll").all())
        # Text against what is behind it: WCAG 2 AA asks for 4.5 : 1.
        contrasts = tab.evaluate(CONTRASTS)
        assert contrasts[0][0] >= 4.5, contrasts


@pytest.mark.slow
def test_it_prints_on_paper_with_what_is_folded_away(page, tmp_path):
    with opened(page, DESKTOP) as tab:
        content = tab.pdf(format="A4", path=str(tmp_path / "report.pdf"))
        assert content.startswith(b"%PDF")
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")  # opens what is folded away
        tab.emulate_media(media="print")
        tab.set_viewport_size({"width": 690, "height": 1000})  # A4 less its margins, in CSS pixels
        assert wide(tab) <= 0
        assert not tab.locator("#large").is_visible()
