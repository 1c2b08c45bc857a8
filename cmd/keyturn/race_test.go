//go:build race

package main

// memoryFactor is the factor of memory use under the race detector.
const memoryFactor = 8
