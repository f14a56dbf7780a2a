package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/meshnode/meshnode/pkg/mesh"
)

func newPush() *cobra.Command {
	var c client
	var path string
	cmd := &cobra.Command{
		Use:   "push TARGET METHOD [PAYLOAD]",
		Short: "send a one-way message",
		Long: `push sends a message that has no reply. It ends with 0 once the node has read the
message and handed it to the service; whether the service is there, and what it
does with the message, is not reported.

` + aboutPayload + `

` + aboutTable + `

` + aboutWaiting,
		Example: `  meshnode push --node db=127.0.0.1:2528 db@sdb PING hello
  date | meshnode push --table cluster.yaml --timeout 2s db@sdb PING

` + exitCodes,
		Args: words(2, 3, "push TARGET METHOD [PAYLOAD]"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := c.parse(); err != nil {
				return err
			}
			payload, err := readPayload(args[2:], path)
			if err != nil {
				return err
			}
			return c.run(func(ctx context.Context, m *mesh.Mesh) error {
				if err := m.Send(ctx, args[0], args[1], payload, c.options()...); err != nil {
					return err
				}
				return handedOver(ctx, m)
			})
		},
	}
	c.add(cmd.Flags())
	c.addHeader(cmd.Flags())
	cmd.Flags().StringVar(&path, "file", "", "`FILE` with the payload, - is standard input")
	return cmd
}

// handedOver closes m and waits until the node has placed what was pushed. The
// mesh reports no push, but it counts what it lost.
func handedOver(ctx context.Context, m *mesh.Mesh) error {
	err := m.Close(ctx)
	s := m.Stats()
	switch {
	case s.PushesLostConnect+s.PushesLostTable+s.PushesLostGoaway+s.PushesLostTooLarge+s.PushesLostClosed > 0:
		return &failure{code: exitNotSent, err: errors.New("not sent: the node did not take the message: it left, or takes none of that size")}
	case err != nil || ctx.Err() != nil || s.PushesLostBroken+s.LinksLost > 0:
		return &failure{code: exitMaybe, err: errors.New("maybe executed: the node did not confirm that it had read the message")}
	default:
		return nil
	}
}
