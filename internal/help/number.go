package help

import (
	"fmt"
	"reflect"
	"strconv"

	"github.com/alecthomas/kong"
)

// Numbers has kong say in plain words that an argument is no number.
func Numbers() kong.Option {
	return kong.OptionFunc(func(k *kong.Kong) error {
		for _, kind := range []reflect.Kind{reflect.Int, reflect.Int64} {
			if err := kong.KindMapper(kind, kong.MapperFunc(number)).Apply(k); err != nil {
				return err
			}
		}
		return nil
	})
}

func number(ctx *kong.DecodeContext, target reflect.Value) error {
	t, err := ctx.Scan.PopValue("number")
	if err != nil {
		return err
	}
	text := fmt.Sprint(t.Value)
	n, err := strconv.ParseInt(text, 10, target.Type().Bits())
	if err != nil {
		return fmt.Errorf("%q is no whole number, or too large", text)
	}
	target.SetInt(n)
	return nil
}
