"""The extension `cluster`: many processes, on one machine or many, are one tracker."""
