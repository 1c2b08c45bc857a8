package main

import "context"

func (b *bench) measureProcess() error                   { return nil }
func (b *bench) measureScale(ctx context.Context) error  { return nil }
func (b *bench) compareBuilds(ctx context.Context) error { return nil }
