"""The three engines that the mechanisms share: block-sparse exact attention, linear scan, and partial attention."""
