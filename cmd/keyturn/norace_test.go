//go:build !race

package main

// memoryFactor is the factor of memory use without the race detector.
const memoryFactor = 1
