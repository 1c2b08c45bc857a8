//go:build !race

package main

// memoryFactor is how much more memory a program takes than it would by itself.
const memoryFactor = 1
