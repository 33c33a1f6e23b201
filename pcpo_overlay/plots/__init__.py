"""Figures. Every module here needs matplotlib and imports it where it draws."""
