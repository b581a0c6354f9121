;; An agent for the contract 0.1.0, by hand: it says its input, and logs that it did.
;;
;; It is the core module; the test makes a component of it, by the contract as it was released.
(module
  (import "outlast:agent/respond@0.1.0" "[constructor]message" (func $open (result i32)))
  (import "outlast:agent/respond@0.1.0" "[method]message.write" (func $write (param i32 i32 i32)))
  (import "outlast:agent/respond@0.1.0" "[method]message.finish" (func $finish (param i32)))
  (import "outlast:agent/respond@0.1.0" "[resource-drop]message" (func $drop (param i32)))
  (import "outlast:agent/log@0.1.0" "log" (func $log (param i32 i32 i32)))

  (memory (export "memory") 16)
  (global $free (mut i32) (i32.const 4096))

  ;; `description`: name, version, about (pointer and length each), and two options that are none.
  (data (i32.const 64) "\00\01\00\00\0a\00\00\00" "\10\01\00\00\05\00\00\00" "\20\01\00\00\1a\00\00\00")
  (data (i32.const 256) "kept-agent")
  (data (i32.const 272) "0.1.0")
  (data (i32.const 288) "Kept from the contract 0.1")
  (data (i32.const 320) "said it")

  (func (export "cabi_realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32) (result i32)
    (local $at i32)
    (local.set $at
      (i32.and
        (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $free (i32.add (local.get $at) (local.get $new)))
    (local.get $at))

  (func (export "describe") (result i32)
    (i32.const 64))

  ;; `turn`: response id, an optional model, the input. The result is `ok(completed)`, which is all zeros.
  (func (export "run")
    (param $id i32) (param $id_length i32)
    (param $named i32) (param $model i32) (param $model_length i32)
    (param $input i32) (param $input_length i32)
    (result i32)
    (local $message i32)
    (local.set $message (call $open))
    (call $write (local.get $message) (local.get $input) (local.get $input_length))
    (call $finish (local.get $message))
    (call $drop (local.get $message))
    (call $log (i32.const 2) (i32.const 320) (i32.const 7))
    (i32.const 1024)))
