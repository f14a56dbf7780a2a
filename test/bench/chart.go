package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// chart is a picture of several contestants over a few categories: lines where
// the categories are steps of one thing, bars where they are not.
type chart struct {
	title, about string
	yTitle       string
	categories   []string
	series       []series
	lines        bool
	log          bool
}

// series has a value for each category; 0 is none.
type series struct {
	name   string
	colour string
	values []float64
}

// The measures of a chart, in pixels.
const (
	chartWidth, chartHeight             = 960, 460
	plotLeft, plotTop, plotRight        = 84, 64, 770
	plotBottom                          = chartHeight - 52
	legendLeft, legendTop, legendHeight = 790, 84, 24
)

// colours of the contestants: Okabe and Ito's, told apart by the colour-blind
// too. The wire is grey, ours is strong.
var colours = map[string]string{
	"mesh": "#d55e00", "mesh-concurrent": "#e69f00", "mesh-stub": "#8c510a", "gateway": "#543005",
	"wire": "#666666", "wire-mailbox": "#aaaaaa", "wire-plain": "#cccccc",
	"grpc-unary": "#0072b2", "grpc-stream": "#56b4e9", "nats": "#009e73", "protoactor": "#cc79a7",
	// Variants of studies, and what a control stands for.
	"mesh-10-busy": "#e69f00", "mesh-64": "#8c510a", "grpc": "#0072b2", "goroutines": "#666666",
}

// svg draws the chart.
func (c chart) svg() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="system-ui, sans-serif" font-size="13" role="img">`+"\n", chartWidth, chartHeight, chartWidth, chartHeight)
	fmt.Fprintf(&b, `<title>%s</title><rect width="100%%" height="100%%" fill="#fff"/>`+"\n", html.EscapeString(c.title))
	fmt.Fprintf(&b, `<text x="%d" y="26" font-size="18" font-weight="600">%s</text>`+"\n", 20, html.EscapeString(c.title))
	fmt.Fprintf(&b, `<text x="%d" y="46" fill="#555">%s</text>`+"\n", 20, html.EscapeString(c.about))
	axis := c.axis()
	for _, tick := range axis.ticks {
		y := axis.y(tick)
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end" fill="#555">%s</text>`+"\n", plotLeft, y, plotRight, plotLeft-8, y+4, tickText(tick))
	}
	for i, name := range c.categories {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555">%s</text>`+"\n", c.x(i), plotBottom+20, html.EscapeString(name))
	}
	fmt.Fprintf(&b, `<text x="22" y="%d" transform="rotate(-90 22 %d)" text-anchor="middle" fill="#555">%s</text>`+"\n", (plotTop+plotBottom)/2, (plotTop+plotBottom)/2, html.EscapeString(c.yTitle))
	for i, s := range c.series {
		if c.lines {
			c.drawLine(&b, axis, s)
		} else {
			c.drawBars(&b, axis, i, s)
		}
		y := legendTop + i*legendHeight
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="14" height="14" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n", legendLeft, y, s.colour, legendLeft+22, y+12, html.EscapeString(s.name))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (c chart) drawLine(b *strings.Builder, axis axis, s series) {
	var d strings.Builder
	move := "M"
	for i, v := range s.values {
		if v <= 0 {
			move = "M"
			continue
		}
		fmt.Fprintf(&d, "%s%.1f %.1f", move, c.x(i), axis.y(v))
		move = "L"
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"><title>%s, %s: %s</title></circle>`+"\n", c.x(i), axis.y(v), s.colour, html.EscapeString(s.name), html.EscapeString(c.categories[i]), numberText(v))
	}
	dash := ""
	if strings.HasPrefix(s.name, "wire") {
		dash = ` stroke-dasharray="6 4"`
	}
	fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", d.String(), s.colour, dash)
}

func (c chart) drawBars(b *strings.Builder, axis axis, n int, s series) {
	width := c.step() * 0.84 / float64(len(c.series))
	for i, v := range s.values {
		if v <= 0 {
			continue
		}
		x, y := c.x(i)-c.step()*0.42+width*float64(n), axis.y(v)
		fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"><title>%s, %s: %s</title></rect>`+"\n", x, y, width*0.9, float64(plotBottom)-y, s.colour, html.EscapeString(s.name), html.EscapeString(c.categories[i]), numberText(v))
		if width >= 24 {
			fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle" font-size="10" fill="#333">%s</text>`+"\n", x+width*0.45, y-3, numberText(v))
		}
	}
}

func (c chart) step() float64 { return float64(plotRight-plotLeft) / float64(len(c.categories)) }

func (c chart) x(i int) float64 { return plotLeft + c.step()*(float64(i)+0.5) }

// axis is the vertical one.
type axis struct {
	low, high float64
	log       bool
	ticks     []float64
}

func (c chart) axis() axis {
	low, high := math.Inf(1), 0.0
	for _, s := range c.series {
		for _, v := range s.values {
			if v > 0 {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	if high == 0 {
		low, high = 1, 1
	}
	if c.log {
		return logAxis(low, high)
	}
	step := math.Pow(10, math.Floor(math.Log10(high/4)))
	for _, f := range []float64{1, 2, 5, 10} {
		if high/(step*f) <= 6 {
			step *= f
			break
		}
	}
	a := axis{high: math.Ceil(high/step) * step}
	for i := 0; float64(i)*step <= a.high*1.0001; i++ {
		a.ticks = append(a.ticks, float64(i)*step)
	}
	return a
}

func logAxis(low, high float64) axis {
	a := axis{low: math.Pow(10, math.Floor(math.Log10(low))), high: math.Pow(10, math.Ceil(math.Log10(high*1.01))), log: true}
	for t := a.low; t <= a.high*1.0001; t *= 10 {
		a.ticks = append(a.ticks, t)
		if a.high/a.low <= 1000 {
			for _, f := range []float64{2, 5} {
				if t*f < a.high {
					a.ticks = append(a.ticks, t*f)
				}
			}
		}
	}
	return a
}

func (a axis) y(v float64) float64 {
	share := (v - a.low) / (a.high - a.low)
	if a.log {
		share = math.Log(v/a.low) / math.Log(a.high/a.low)
	}
	return plotBottom - share*(plotBottom-plotTop)
}

func tickText(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", math.Round(v/1e4)/100)
	case v >= 1e3:
		return fmt.Sprintf("%gk", math.Round(v/10)/100)
	}
	return fmt.Sprintf("%g", math.Round(v*1000)/1000)
}
