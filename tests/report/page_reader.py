"""A page of a run as a browser sees it."""

import json
import re
from html.parser import HTMLParser


class Reader(HTMLParser):
    """The texts and elements a browser would see."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.texts, self.scripts = [], [], []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        (self.scripts if self._inside == "script" else self.texts).append(" ".join(data.split()))

    @property
    def text(self):
        return " ".join(text for text in self.texts if text)

    def attributes(self, name):
        return [attrs for tag, attrs in self.elements if tag == name]


def data_of(page, number=0):
    return json.loads(re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)[number])
