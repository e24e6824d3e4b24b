"""Exported web page in headless Chromium, driven as a user would."""

import functools
import http.server
import json
import shutil
import threading

import numpy as np
import PIL.Image
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from cases import few
from efficientdet_tf.cli import command_line
from efficientdet_tf.data import preprocessing
from efficientdet_tf.data.image_files import read_image
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.detector import Detector
from efficientdet_tf.errors import UserError
from efficientdet_tf.run_directory import RunDirectory
from export import __main__ as command
from export import formats, litert_js, web

needs_chromium = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="chromium and chromedriver are not installed",
)
STRETCHED = {
    "detection.nms_scope": "global",
    "detection.pre_nms_top_k": 0,
    "model.resize": "stretch",
}
SETTINGS = [
    {},
    # Its threshold of IoU is for hard NMS alone, as which it acts with a sigma of 0.
    STRETCHED | {"detection.nms": "gaussian", "detection.iou_threshold": 0.1},
    STRETCHED | {"detection.nms": "gaussian", "detection.sigma": 0},
]


@pytest.fixture(scope="module")
def page(tiny_run, folder):
    """Function that exports a page of `SETTINGS` once: the path of its folder."""

    @functools.cache
    def make(index):
        run, output = RunDirectory(tiny_run), folder / str(index)
        config = run.config().override({"detection.score_threshold": 0.01, **SETTINGS[index]})
        exporter = formats.Exporter(run.load_model(), config, run.label_map(), output)
        exporter.write("web")
        return output / "web"

    return make


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Root of the web server."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def address(folder, page):
    """Address of the web server, which has the first page already."""
    page(0)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    profile = tmp_path_factory.mktemp("profile")
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    for flag in ("use-fake-ui-for-media-stream", "use-fake-device-for-media-stream"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options, service) as driver:
        yield driver


@pytest.fixture(scope="module")
def png(photograph, tmp_path_factory):
    """The photograph without loss, as browsers decode JPEG otherwise."""
    path = tmp_path_factory.mktemp("png") / "photograph.png"
    PIL.Image.open(photograph).save(path)
    return path


def wait_for(browser, text):
    """Wait for a status that contains a text."""

    def said(driver):
        status = driver.find_element(By.ID, "status").text
        assert "cannot" not in status and "failed" not in status, status
        return text in status

    WebDriverWait(browser, 60).until(said)


def listed(browser):
    """Rows of the table: (name, score, ymin, xmin, ymax, xmax)."""
    rows = browser.find_elements(By.CSS_SELECTOR, "#detections tbody tr")
    return [
        (
            row.find_element(By.TAG_NAME, "td").text,
            float(row.get_attribute("data-score")),
            *json.loads(row.get_attribute("data-box")),
        )
        for row in rows
    ]


@needs_chromium
@pytest.mark.parametrize("index", few(range(len(SETTINGS)), lambda index: index < 2))
def test_the_page_detects_what_the_detector_does(browser, address, page, png, index):
    folder = page(index)
    browser.get(f"{address}/{index}/web/")
    wait_for(browser, "Choose an image")
    browser.find_element(By.ID, "file").send_keys(str(png))
    wait_for(browser, "ms for NMS")
    found = listed(browser)
    detector = Detector.load(folder / "model.tflite")
    [expected] = detector.detect([read_image(png)])
    expected = expected.above(0.3)
    names = [detector.label_map.names[i] for i in expected.class_indices]
    assert len(expected) > 5 and len(set(names)) > 1
    assert [row[0] for row in found] == names
    np.testing.assert_allclose([row[1] for row in found], expected.scores, atol=1e-4)
    np.testing.assert_allclose([row[2:] for row in found], expected.boxes, atol=0.05)
    # All files are the page's own, and the browser found no fault in it.
    script = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    loaded = browser.execute_script(script)
    assert [name for name in loaded if not name.startswith((address, "blob:"))] == []
    # Its console has lines of the runtime as well.
    sources = {"security", "network", "javascript"}
    assert [entry for entry in browser.get_log("browser") if entry["source"] in sources] == []


@needs_chromium
def test_the_threshold_hides_detections(browser, address, png):
    browser.get(f"{address}/0/web/")
    wait_for(browser, "Choose an image")
    browser.find_element(By.ID, "file").send_keys(str(png))
    wait_for(browser, "ms for NMS")
    before = listed(browser)
    browser.execute_script(
        "const slider = document.getElementById('threshold'); slider.value = 0.8;"
        "slider.dispatchEvent(new Event('input'));"
    )
    assert browser.find_element(By.ID, "threshold-value").text == "0.80"
    expected = [row for row in before if row[1] >= 0.8]
    assert listed(browser) == expected
    assert 0 < len(expected) < len(before)


@needs_chromium
def test_a_file_that_is_no_image_is_named_and_the_next_one_is_detected_in(
    browser, address, png, tmp_path
):
    (tmp_path / "notes.png").write_text("not an image")
    browser.get(f"{address}/0/web/")
    wait_for(browser, "Choose an image")
    chooser = browser.find_element(By.ID, "file")
    chooser.send_keys(str(tmp_path / "notes.png"))
    wait_for(browser, "notes.png is not an image that this browser can show.")
    chooser.send_keys(str(png))
    wait_for(browser, "640 × 427 pixels;")


@needs_chromium
def test_the_camera_is_detected_in_until_it_is_stopped(browser, address):
    browser.get(f"{address}/0/web/")
    wait_for(browser, "Choose an image")
    button = browser.find_element(By.ID, "camera")
    button.click()
    wait_for(browser, "ms for NMS")
    assert button.text == "Stop the camera"
    button.click()
    assert button.text == "Use the camera"


@needs_chromium
@pytest.mark.parametrize("method", ["pad", "stretch"])
@pytest.mark.parametrize("shape", [(300, 131), (40, 77), (1, 500), (128, 160)], ids=str)
def test_resizes_as_evaluation_does(browser, address, shape, method):
    """Larger and smaller images, of other and of the same shape as the input."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    expected, scale = preprocessing.resize(image, (128, 160), method, (1.0, 2.0, 3.0))
    rgba = np.concatenate([image, np.full((*shape, 1), 255, np.uint8)], axis=-1)
    browser.get(f"{address}/0/web/")
    found = browser.execute_async_script(
        "const [data, width, input, done] = arguments;"
        "import('./preprocessing.js').then(({resizeToInput}) => {"
        "  const image = new ImageData(new Uint8ClampedArray(data), width);"
        "  const {pixels, scale} = resizeToInput(image, input);"
        "  done([Array.from(pixels), scale]);"
        "});",
        rgba.ravel().tolist(),
        shape[1],
        {"height": 128, "width": 160, "resize": method, "padding": [1, 2, 3]},
    )
    pixels = np.reshape(found[0], (128, 160, 3))
    # TensorFlow rounds its products to float32.
    np.testing.assert_allclose(pixels, expected, atol=2e-3)
    np.testing.assert_allclose(found[1], scale, rtol=1e-6)


def test_the_folder_is_whole_and_its_own(page):
    folder = page(1)
    assert web.is_own(folder)
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert description["classes"] == ["ant", "bee", "Kuh ä"]
    assert description["input"] == {
        "height": 128,
        "width": 160,
        "resize": "stretch",
        "padding": [127, 127, 127],
    }
    assert description["detection"]["nms_scope"] == "global"
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "<title>Detector of 3 classes</title>" in page
    assert "efficientdet-lite0: ant, bee, Kuh ä." in page


def test_names_of_classes_cannot_become_markup(tiny_run, tmp_path):
    run = RunDirectory(tiny_run)
    labels = LabelMap((1, 2, 3), ("<script>", "&", '"'))
    exporter = formats.Exporter(run.load_model(), run.config(), labels, tmp_path)
    page = (exporter.write("web") / "index.html").read_text(encoding="utf-8")
    assert "efficientdet-lite0: &lt;script&gt;, &amp;, &quot;." in page


def test_a_folder_with_other_files_is_not_replaced(tiny_run, page, tmp_path, capsys):
    shutil.copytree(page(0), tmp_path / "web")
    (tmp_path / "web" / "CNAME").write_text("example.org")
    arguments = [f"--model_dir={tiny_run}", f"--output={tmp_path}", "--format=web"]
    assert command_line.call(command.COMMAND, arguments) == 1
    assert capsys.readouterr().err == (
        f"export: --output: {tmp_path}/web exists and was not written by this command; choose "
        "another name or folder, or move it away\n"
    )


def test_offline_the_files_to_download_are_named(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EFFICIENTDET_OFFLINE", "1")
    monkeypatch.setenv("EFFICIENTDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://example.org/npm/")
    arguments = [f"--model_dir={tiny_run}", f"--output={tmp_path / 'export'}", "--format=web"]
    assert command_line.call(command.COMMAND, arguments) == 1
    assert capsys.readouterr().err == (
        "export: https://example.org/npm/@litertjs/core/-/core-2.5.3.tgz: offline by "
        f"EFFICIENTDET_OFFLINE; put the file at {tmp_path}/cache/core-2.5.3.tgz\n"
    )
    assert list((tmp_path / "export").iterdir()) == []


def test_a_registry_that_is_no_address_is_refused(monkeypatch):
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "registry")
    with pytest.raises(UserError) as error:
        litert_js.fetch()
    assert str(error.value) == (
        "NPM_CONFIG_REGISTRY: 'registry' is not the address of an npm registry"
    )
