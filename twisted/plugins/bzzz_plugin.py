"""What makes ``twistd bzzz`` known to Twisted."""

from twisted.application.service import ServiceMaker

bzzz = ServiceMaker(
    "bzzz", "bzzz.tap", "One encrypted mesh of the machines you already own", "bzzz"
)
