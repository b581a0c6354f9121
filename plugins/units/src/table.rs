//! What the units are.

/// A unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    /// What it measures.
    pub(crate) quantity: &'static str,
    /// What it is called.
    pub(crate) names: &'static [&'static str],
    /// How much of the quantity's base unit it is.
    pub(crate) factor: f64,
    /// What it shows where the base unit shows zero, in base units.
    pub(crate) offset: f64,
}

impl Unit {
    pub(crate) fn in_base(self, value: f64) -> f64 {
        value * self.factor + self.offset
    }

    pub(crate) fn in_this(self, value: f64) -> f64 {
        (value - self.offset) / self.factor
    }
}

/// The unit of this name, in upper or lower case where that leaves no doubt.
pub(crate) fn find(name: &str) -> Option<Unit> {
    let name = name.trim();
    let exactly = UNITS.iter().find(|unit| unit.names.contains(&name));
    let loosely = || {
        let mut same = UNITS.iter().filter(|unit| unit.names.iter().any(|known| known.eq_ignore_ascii_case(name)));
        same.next().filter(|_| same.next().is_none())
    };
    exactly.or_else(loosely).copied()
}

macro_rules! units {
    ($($quantity:literal { $($name:literal $(| $other:literal)* = $factor:expr $(, + $offset:expr)?;)* })*) => {
        /// All units. The first name of each is the one to show.
        pub(crate) const UNITS: &[Unit] = &[
            $($(Unit {
                quantity: $quantity,
                names: &[$name $(, $other)*],
                factor: $factor,
                offset: 0.0 $(+ $offset)?,
            },)*)*
        ];
    };
}

units! {
    "length" {
        "nm" | "nanometer" | "nanometers" = 1e-9;
        "µm" | "μm" | "um" | "micrometer" | "micrometers" = 1e-6;
        "mm" | "millimeter" | "millimeters" | "millimetre" | "millimetres" = 1e-3;
        "cm" | "centimeter" | "centimeters" | "centimetre" | "centimetres" = 1e-2;
        "m" | "meter" | "meters" | "metre" | "metres" = 1.0;
        "km" | "kilometer" | "kilometers" | "kilometre" | "kilometres" = 1e3;
        "in" | "inch" | "inches" | "\"" = 0.0254;
        "ft" | "foot" | "feet" | "'" = 0.3048;
        "yd" | "yard" | "yards" = 0.9144;
        "mi" | "mile" | "miles" = 1609.344;
        "nmi" | "nautical mile" | "nautical miles" = 1852.0;
        "au" | "astronomical unit" | "astronomical units" = 149_597_870_700.0;
        "ly" | "light-year" | "light-years" = 9_460_730_472_580_800.0;
    }
    "area" {
        "mm²" | "mm2" = 1e-6;
        "cm²" | "cm2" = 1e-4;
        "m²" | "m2" | "square meter" | "square meters" = 1.0;
        "ha" | "hectare" | "hectares" = 1e4;
        "km²" | "km2" | "square kilometer" | "square kilometers" = 1e6;
        "in²" | "in2" | "square inch" | "square inches" = 0.000_645_16;
        "ft²" | "ft2" | "square foot" | "square feet" = 0.092_903_04;
        "acre" | "acres" = 4_046.856_422_4;
        "mi²" | "mi2" | "square mile" | "square miles" = 2_589_988.110_336;
    }
    "volume" {
        "ml" | "milliliter" | "milliliters" | "cm³" | "cm3" = 1e-3;
        "cl" | "centiliter" | "centiliters" = 1e-2;
        "dl" | "deciliter" | "deciliters" = 1e-1;
        "l" | "liter" | "liters" | "litre" | "litres" | "dm³" | "dm3" = 1.0;
        "m³" | "m3" | "cubic meter" | "cubic meters" = 1e3;
        "tsp" | "teaspoon" | "teaspoons" = 0.004_928_921_593_75;
        "tbsp" | "tablespoon" | "tablespoons" = 0.014_786_764_781_25;
        "fl oz" | "fluid ounce" | "fluid ounces" = 0.029_573_529_562_5;
        "cup" | "cups" = 0.236_588_236_5;
        "pt" | "pint" | "pints" = 0.473_176_473;
        "qt" | "quart" | "quarts" = 0.946_352_946;
        "gal" | "gallon" | "gallons" = 3.785_411_784;
    }
    "mass" {
        "mg" | "milligram" | "milligrams" = 1e-6;
        "g" | "gram" | "grams" = 1e-3;
        "kg" | "kilogram" | "kilograms" = 1.0;
        "t" | "tonne" | "tonnes" | "metric ton" | "metric tons" = 1e3;
        "oz" | "ounce" | "ounces" = 0.028_349_523_125;
        "lb" | "lbs" | "pound" | "pounds" = 0.453_592_37;
        "st" | "stone" | "stones" = 6.350_293_18;
        "short ton" | "short tons" = 907.184_74;
    }
    "time" {
        "ms" | "millisecond" | "milliseconds" = 1e-3;
        "s" | "second" | "seconds" = 1.0;
        "min" | "minute" | "minutes" = 60.0;
        "h" | "hour" | "hours" = 3600.0;
        "d" | "day" | "days" = 86_400.0;
        "week" | "weeks" = 604_800.0;
        "year" | "years" = 31_557_600.0;
    }
    "speed" {
        "m/s" = 1.0;
        "km/h" | "kph" = 1.0 / 3.6;
        "mph" | "mi/h" = 0.447_04;
        "kn" | "knot" | "knots" = 1852.0 / 3600.0;
        "ft/s" = 0.3048;
    }
    "temperature" {
        "K" | "kelvin" = 1.0;
        "°C" | "C" | "celsius" = 1.0, + 273.15;
        "°F" | "F" | "fahrenheit" = 5.0 / 9.0, + 459.67 * 5.0 / 9.0;
    }
    "energy" {
        "J" | "joule" | "joules" = 1.0;
        "kJ" | "kilojoule" | "kilojoules" = 1e3;
        "cal" | "calorie" | "calories" = 4.184;
        "kcal" | "kilocalorie" | "kilocalories" = 4184.0;
        "Wh" | "watt-hour" | "watt-hours" = 3600.0;
        "kWh" | "kilowatt-hour" | "kilowatt-hours" = 3.6e6;
        "BTU" | "BTUs" = 1_055.055_852_62;
    }
    "power" {
        "W" | "watt" | "watts" = 1.0;
        "kW" | "kilowatt" | "kilowatts" = 1e3;
        "hp" | "horsepower" = 745.699_871_582_270_2;
        "PS" = 735.498_75;
    }
    "pressure" {
        "Pa" | "pascal" | "pascals" = 1.0;
        "kPa" | "kilopascal" | "kilopascals" = 1e3;
        "bar" | "bars" = 1e5;
        "atm" | "atmosphere" | "atmospheres" = 101_325.0;
        "psi" = 6_894.757_293_168_361;
        "mmHg" = 133.322_387_415;
    }
    "angle" {
        "rad" | "radian" | "radians" = 1.0;
        "°" | "deg" | "degree" | "degrees" = std::f64::consts::PI / 180.0;
        "turn" | "turns" = std::f64::consts::TAU;
    }
    "data" {
        "bit" | "bits" = 0.125;
        "B" | "byte" | "bytes" = 1.0;
        "kB" | "kilobyte" | "kilobytes" = 1e3;
        "MB" | "megabyte" | "megabytes" = 1e6;
        "GB" | "gigabyte" | "gigabytes" = 1e9;
        "TB" | "terabyte" | "terabytes" = 1e12;
        "KiB" | "kibibyte" | "kibibytes" = 1024.0;
        "MiB" | "mebibyte" | "mebibytes" = 1_048_576.0;
        "GiB" | "gibibyte" | "gibibytes" = 1_073_741_824.0;
        "TiB" | "tebibyte" | "tebibytes" = 1_099_511_627_776.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_unit() {
        let mut names: Vec<_> = UNITS.iter().flat_map(|unit| unit.names).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn case_matters_only_where_it_must() {
        assert_eq!(find(" Miles ").unwrap().names[0], "mi");
        assert_eq!(find("mb").unwrap().names[0], "MB");
        assert_eq!(find("b").unwrap().names[0], "B");
        assert!(find("nowhere").is_none());
    }
}
