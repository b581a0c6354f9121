//! The tool component `units` converts units, for any agent that is granted `units__convert`.
//!
//! The operator may add units of the house, as so much of another one:
//!
//! ```toml
//! [tools.units.config.units]
//! smoot = "1.7018 m"
//! ```

mod table;

use std::collections::BTreeMap;

use outlast_guest::tools::{self, Tool};
use outlast_guest::{Failure, ToolComponent, schema, serde_json::Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use table::Unit;

struct Units;

outlast_guest::tool_component!(Units);

/// What the operator may configure.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// More units: their names, and how much of another unit each is, for example `"1.7018 m"`.
    units: BTreeMap<String, String>,
}

/// The arguments of `convert`. The model reads these comments.
#[derive(Deserialize, JsonSchema)]
struct Conversion {
    /// How much it is.
    value: f64,
    /// The unit it is in, for example `mi`, `°F`, `km/h`, `GiB` or `cup`.
    from: String,
    /// The unit it is wanted in.
    to: String,
}

/// The argument of `units`.
#[derive(Deserialize, JsonSchema)]
struct Like {
    /// A unit.
    unit: String,
}

#[derive(Debug, PartialEq, Serialize)]
struct Amount {
    value: f64,
    unit: String,
}

impl ToolComponent for Units {
    const NAME: &'static str = "units";
    const ABOUT: &'static str = "Converts lengths, areas, volumes, masses, times, speeds, temperatures, energies, powers, \
                                 pressures, angles and amounts of data.";

    fn config_schema() -> Option<Value> {
        Some(schema::<Config>())
    }

    fn tools() -> Vec<Tool<'static>> {
        vec![
            Tool::new("convert", "Converts an amount from one unit to another.", convert).idempotent(),
            Tool::new("like", "The units that a unit can be converted to.", like).idempotent(),
        ]
    }
}

fn convert(conversion: Conversion) -> Result<Amount, Failure> {
    let (from, to) = (unit(&conversion.from)?, unit(&conversion.to)?);
    if from.quantity != to.quantity {
        let message =
            format!("{} is a unit of {}, and {} one of {}", conversion.from, from.quantity, conversion.to, to.quantity);
        return Err(Failure::invalid("different_quantities", message));
    }
    Ok(Amount { value: rounded(to.in_this(from.in_base(conversion.value))), unit: conversion.to })
}

fn like(like: Like) -> Result<Vec<&'static str>, Failure> {
    let quantity = unit(&like.unit)?.quantity;
    Ok(table::UNITS.iter().filter(|unit| unit.quantity == quantity).map(|unit| unit.names[0]).collect())
}

/// The unit of this name: one of the table, or one of the operator's.
fn unit(name: &str) -> Result<Unit, Failure> {
    if let Some(unit) = table::find(name) {
        return Ok(unit);
    }
    let config: Config = tools::config()?;
    let Some(definition) = config.units.get(name.trim()) else {
        return Err(Failure::not_found("unknown_unit", format!("there is no unit `{name}`")));
    };
    let wrong = || Failure::invalid("invalid_config", format!("`{name} = \"{definition}\"` is not so much of a unit"));
    let (factor, of) = definition.trim().split_once(' ').ok_or_else(wrong)?;
    let (factor, of) = (factor.parse::<f64>().map_err(|_| wrong())?, table::find(of).ok_or_else(wrong)?);
    Ok(Unit { factor: factor * of.factor, ..of })
}

/// With 12 digits, of which the last may be wrong.
fn rounded(value: f64) -> f64 {
    format!("{value:.11e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_guest::mock::Mock;
    use serde_json::json;

    fn converted(value: f64, from: &str, to: &str) -> Result<f64, Failure> {
        let conversion = Conversion { value, from: from.to_owned(), to: to.to_owned() };
        let run =
            Mock::new().config(json!({"units": {"smoot": "1.7018 m", "bad": "two"}})).call(|| convert(conversion));
        run.result.map(|amount| amount.value)
    }

    #[test]
    fn amounts_are_converted() {
        for (value, from, to, expected) in [
            (26.2, "mi", "km", 42.1648128),
            (100.0, "°C", "°F", 212.0),
            (-40.0, "fahrenheit", "celsius", -40.0),
            (0.0, "K", "°C", -273.15),
            (1.0, "GiB", "MB", 1073.741824),
            (90.0, "km/h", "m/s", 25.0),
            (1.0, "kWh", "kJ", 3600.0),
            (2.0, "cups", "ml", 473.176473),
            (1.0, "acre", "m²", 4046.8564224),
            (180.0, "deg", "rad", std::f64::consts::PI),
        ] {
            let got = converted(value, from, to).unwrap();
            assert!((got - expected).abs() <= expected.abs() * 1e-11, "{value} {from} = {got} {to}, not {expected}");
        }
    }

    #[test]
    fn what_cannot_be_converted_says_why() {
        assert_eq!(converted(1.0, "mi", "kg").unwrap_err().message, "mi is a unit of length, and kg one of mass");
        assert_eq!(converted(1.0, "furlongs", "m").unwrap_err().code, "unknown_unit");
    }

    #[test]
    fn the_operator_adds_units() {
        assert_eq!(converted(364.4, "smoot", "m").unwrap(), 620.13592);
        assert_eq!(converted(1.0, "bad", "m").unwrap_err().code, "invalid_config");
    }

    #[test]
    fn a_model_calls_it_with_json() {
        let answer = Mock::new().call(|| Units::tools()[0].call(r#"{"value": 1, "from": "in", "to": "cm"}"#));
        let answer: Value = serde_json::from_str(&answer.result.unwrap()).unwrap();
        assert_eq!(answer, json!({"value": 2.54, "unit": "cm"}));
        let answer = Mock::new().call(|| Units::tools()[1].call(r#"{"unit": "bar"}"#));
        assert_eq!(answer.result.unwrap(), r#"["Pa","kPa","bar","atm","psi","mmHg"]"#);
    }
}
