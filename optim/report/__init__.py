"""Views of the artefacts for people: lines, tables, figures and pages."""
