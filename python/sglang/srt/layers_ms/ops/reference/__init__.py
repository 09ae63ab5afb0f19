"""The reference table: stock MindSpore calls, on any device. The oracle of all other tables."""
