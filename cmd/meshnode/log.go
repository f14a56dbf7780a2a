package main

import (
	"os"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLogger makes a logger that writes one line an event to standard error. What
// peers say stands in fields only, which both encoders quote. flush is to be
// called last.
func newLogger(format, level string) (_ *zap.Logger, flush func(), err error) {
	least, err := zapcore.ParseLevel(level)
	if err != nil || least > zapcore.ErrorLevel {
		return nil, nil, usagef("--log-level %q: write debug, info, warn or error", level)
	}
	if format == "" {
		format = "json"
		if isTerminal(os.Stderr) {
			format = "console"
		}
	}
	config := zap.NewProductionEncoderConfig()
	config.TimeKey, config.EncodeTime = "time", zapcore.ISO8601TimeEncoder
	config.EncodeDuration = zapcore.StringDurationEncoder
	var encoder zapcore.Encoder
	switch format {
	case "json":
		encoder = zapcore.NewJSONEncoder(config)
	case "console":
		config.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(config)
	default:
		return nil, nil, usagef("--log %q: write json or console", format)
	}
	to := newSink(os.Stderr, encoder)
	return zap.New(zapcore.NewCore(encoder, to, least)), to.close, nil
}
